// SPDX-License-Identifier: GPL-2.0
/*
 * luo_testbed_handlers - preservable files named like the ones that are still to come
 *
 * Each row of luo_testbed_types is a file handler, with a device node
 * /dev/luo_testbed/NAME whose open files it preserves. A file holds folios. What
 * is written to it is found in them again after the live update:
 *
 *   before                                 after
 *   folios       kho_preserve_folio        kho_restore_folio, into the new file
 *   their list   kho_preserve_vmalloc      kho_restore_vmalloc, and freed
 *   the header   kho_alloc_preserve        kho_restore_free, when finished
 *
 * The handlers share global state (FLBs), which is retrieved when the first file is.
 */
#define pr_fmt(fmt) "luo_testbed: " fmt

#ifdef CONFIG_LIVEUPDATE

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kallsyms.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/kho_radix_tree.h>
#include <linux/liveupdate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include "kexec_handover_internal.h"
#include "luo_testbed.h"

/* An order that nothing else preserves: its first key needs new nodes of KHO's tree. */
#define UNUSUAL_ORDER 6

/* How large the frames are that an FLB keeps though they belong to no file. */
#define SPARE_ORDER 3

#define FILE_MAGIC 0x6c756f5f66696c65ULL
#define FLB_MAGIC 0x6c756f5f666c6221ULL

/* A folio, as the next kernel gets it. */
struct folio_ser {
	u64 phys;
	u64 order;
};

/* A file's header, as the next kernel gets it. */
struct file_ser {
	u64 magic;
	u64 size;
	u64 frozen;
	u64 scratch;
	u64 folios;
	struct kho_vmalloc list;
};

/* An FLB's state, as the next kernel gets it: frames that belong to nobody. */
struct flb_ser {
	u64 magic;
	u64 spares;
	u64 phys[];
};

/* An FLB, and how many spare frames it keeps. */
struct testbed_flb {
	struct liveupdate_flb flb;
	unsigned int spares;
};

/* A file handler and its device. */
struct testbed_type {
	struct liveupdate_file_handler handler;
	struct miscdevice device;
	/* The orders of a file's folios, ended by -1. */
	const int *orders;
	/* Its FLBs, ended by NULL. */
	struct testbed_flb *flbs[3];
};

/* An open file. */
struct testbed_file {
	struct testbed_type *type;
	size_t size;
	unsigned int count;
	struct folio *folios[] __counted_by(count);
};

static const struct file_operations testbed_fops;

/* Files */

static struct testbed_file *testbed_file_alloc(struct testbed_type *type, unsigned int count)
{
	struct testbed_file *f = kzalloc(struct_size(f, folios, count), GFP_KERNEL);

	if (f) {
		f->type = type;
		f->count = count;
	}
	return f;
}

static void testbed_file_free(struct testbed_file *f)
{
	for (int i = 0; i < f->count; i++)
		if (f->folios[i])
			folio_put(f->folios[i]);
	kfree(f);
}

static int testbed_open(struct inode *inode, struct file *file)
{
	struct testbed_type *type = container_of(file->private_data, struct testbed_type, device);
	struct testbed_file *f;
	int count = 0;

	while (type->orders[count] >= 0)
		count++;
	f = testbed_file_alloc(type, count);
	if (!f)
		return -ENOMEM;
	for (int i = 0; i < count; i++) {
		f->folios[i] = folio_alloc(GFP_KERNEL | __GFP_ZERO, type->orders[i]);
		if (!f->folios[i]) {
			testbed_file_free(f);
			return -ENOMEM;
		}
	}
	file->private_data = f;
	return 0;
}

static int testbed_release(struct inode *inode, struct file *file)
{
	testbed_file_free(file->private_data);
	return 0;
}

/* Where the byte at @pos lies, and how many follow it there; NULL behind the end. */
static void *testbed_at(struct testbed_file *f, size_t pos, size_t *room)
{
	for (int i = 0; i < f->count; i++) {
		size_t size = folio_size(f->folios[i]);

		if (pos < size) {
			*room = size - pos;
			return folio_address(f->folios[i]) + pos;
		}
		pos -= size;
	}
	return NULL;
}

static ssize_t testbed_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	struct testbed_file *f = file->private_data;
	size_t room;
	void *at;

	if (*pos >= f->size)
		return 0;
	at = testbed_at(f, *pos, &room);
	count = min3(count, room, f->size - (size_t)*pos);
	if (copy_to_user(to, at, count))
		return -EFAULT;
	*pos += count;
	return count;
}

static ssize_t testbed_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	struct testbed_file *f = file->private_data;
	size_t room;
	void *at = testbed_at(f, *pos, &room);

	if (!at)
		return -ENOSPC;
	count = min(count, room);
	if (copy_from_user(at, from, count))
		return -EFAULT;
	*pos += count;
	f->size = max_t(size_t, f->size, *pos);
	return count;
}

static const struct file_operations testbed_fops = {
	.owner		= THIS_MODULE,
	.open		= testbed_open,
	.release	= testbed_release,
	.llseek		= default_llseek,
	.read		= testbed_read,
	.write		= testbed_write,
};

/* Ways for a handler to go wrong that take more than a line */

/* Adds or deletes the key of the first page of scratch memory, past the check that KHO makes. */
static int testbed_scratch(bool add)
{
	/* Mirrors the beginning of struct kho_out in kexec_handover.c, 7.2 and 7.3. */
	struct {
		void *fdt;
		struct mutex lock;
		struct kho_radix_tree tree;
	} *out = (void *)kallsyms_lookup_name("kho_out");
	unsigned long pfn = PHYS_PFN(kho_scratch[0].addr);

	if (!out)
		return -ENOENT;
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 3, 0)
	if (add)
		return kho_radix_add_page(&out->tree, pfn, 0);
	kho_radix_del_page(&out->tree, pfn, 0);
#else
	if (add)
		return kho_radix_add_key(&out->tree, (1UL << (64 - PAGE_SHIFT)) | pfn);
	kho_radix_del_key(&out->tree, (1UL << (64 - PAGE_SHIFT)) | pfn);
#endif
	return 0;
}

/*
 * Preserves a folio, whereby the page allocator fails, and says nothing of it.
 * Works after a process has let the fault injection of page allocations touch those
 * that may sleep.
 */
static void testbed_ignore_failure(void)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, UNUSUAL_ORDER);
	unsigned int nth = current->fail_nth;
	int err;

	if (!folio)
		return;
	current->fail_nth = 1;
	err = kho_preserve_folio(folio);
	current->fail_nth = nth;
	pr_info("kho_preserve_folio: %pe, and preserve goes on\n", ERR_PTR(err));
	if (!err)
		kho_unpreserve_folio(folio);
	folio_put(folio);
}

/* File handlers */

/* A macro, since what takes such arguments alone is a callback to a tracer. */
#define type_of(args) container_of((args)->handler, struct testbed_type, handler)

/* Has the FLBs retrieved that are not yet, and looks at each. */
static int testbed_use_flbs(struct testbed_type *type)
{
	for (int i = 0; type->flbs[i] && !luo_testbed_faults.flb_not_retrieved; i++) {
		struct liveupdate_flb *flb = &type->flbs[i]->flb;
		struct flb_ser *state;
		int err = liveupdate_flb_get_incoming(flb, (void **)&state);

		if (err)
			return err;
		if (state->magic != FLB_MAGIC)
			pr_err("%s: ERROR - it did not come over whole\n", flb->compatible);
		liveupdate_flb_put_incoming(flb);
	}
	return 0;
}

static bool luo_testbed_can_preserve(struct liveupdate_file_handler *handler, struct file *file)
{
	struct testbed_file *f = file->private_data;

	return file->f_op == &testbed_fops && &f->type->handler == handler;
}

static void testbed_unpreserve_folios(struct testbed_file *f, int count)
{
	while (count--)
		kho_unpreserve_folio(f->folios[count]);
}

/* What goes wrong in a preserve that has done everything. */
static void testbed_preserved(struct testbed_type *type)
{
	void *obj;

	if (luo_testbed_goes_wrong(preserve_ignores))
		testbed_ignore_failure();
	if (luo_testbed_goes_wrong(flb_get_leaks) && type->flbs[0])
		liveupdate_flb_get_outgoing(&type->flbs[0]->flb, &obj);
	if (luo_testbed_goes_wrong(flb_put_twice) && type->flbs[0])
		liveupdate_flb_put_outgoing(&type->flbs[0]->flb);
}

static int luo_testbed_preserve(struct liveupdate_file_op_args *args)
{
	struct testbed_file *f = args->file->private_data;
	struct folio_ser *list;
	struct file_ser *ser;
	int err, i = 0;

	if (luo_testbed_faults.preserve_fails)
		return -(int)luo_testbed_faults.preserve_fails;
	ser = kho_alloc_preserve(sizeof(*ser));
	if (IS_ERR(ser))
		return PTR_ERR(ser);
	list = vcalloc(f->count, sizeof(*list));
	err = -ENOMEM;
	if (!list)
		goto err_ser;
	for (i = 0; i < f->count; i++) {
		err = kho_preserve_folio(f->folios[i]);
		if (err)
			goto err_folios;
		list[i].phys = PFN_PHYS(folio_pfn(f->folios[i]));
		list[i].order = folio_order(f->folios[i]);
	}
	err = kho_preserve_vmalloc(list, &ser->list);
	if (err)
		goto err_folios;
	err = -EIO;
	if (luo_testbed_goes_wrong(preserve_leaks)) {
		kho_unpreserve_vmalloc(&ser->list);
		i--;
		goto err_folios;
	}
	if (luo_testbed_goes_wrong(preserve_scratch))
		ser->scratch = !testbed_scratch(true);
	testbed_preserved(f->type);

	ser->magic = FILE_MAGIC;
	ser->size = f->size;
	ser->folios = f->count;
	args->serialized_data = virt_to_phys(ser);
	args->private_data = list;
	return 0;

err_folios:
	testbed_unpreserve_folios(f, i);
	vfree(list);
err_ser:
	kho_unpreserve_free(ser);
	return err;
}

static void luo_testbed_unpreserve(struct liveupdate_file_op_args *args)
{
	struct testbed_file *f = args->file->private_data;
	struct file_ser *ser = phys_to_virt(args->serialized_data);
	struct folio *last = f->folios[f->count - 1];
	int count = f->count;

	kho_unpreserve_vmalloc(&ser->list);
	if (luo_testbed_goes_wrong(unpreserve_leaks))
		count--;
	if (luo_testbed_goes_wrong(unpreserve_order)) {
		count--;
		kho_unpreserve_pages(folio_page(last, 0), 1);
	}
	if (luo_testbed_goes_wrong(unpreserve_twice))
		kho_unpreserve_folio(last);
	testbed_unpreserve_folios(f, count);
	if (ser->scratch)
		testbed_scratch(false);
	vfree(args->private_data);
	kho_unpreserve_free(ser);
}

static int luo_testbed_freeze(struct liveupdate_file_op_args *args)
{
	struct file_ser *ser = phys_to_virt(args->serialized_data);

	if (luo_testbed_faults.freeze_fails) {
		if (!luo_testbed_faults.freeze_passes)
			return -(int)luo_testbed_faults.freeze_fails;
		luo_testbed_faults.freeze_passes--;
	}
	ser->frozen = true;
	return 0;
}

static void luo_testbed_unfreeze(struct liveupdate_file_op_args *args)
{
	struct file_ser *ser = phys_to_virt(args->serialized_data);

	ser->frozen = false;
}

/* Takes over what a header names. What cannot be restored is lost, and KHO has warned. */
static int testbed_restore(struct testbed_file *f, struct file_ser *ser)
{
	struct folio_ser *list = kho_restore_vmalloc(&ser->list);
	int err = 0;

	ser->magic = 0;
	if (!list)
		return -ENOMEM;
	f->size = ser->size;
	for (int i = 0; i < f->count; i++) {
		f->folios[i] = kho_restore_folio(list[i].phys);
		if (!f->folios[i])
			err = -EIO;
	}
	if (luo_testbed_goes_wrong(restore_twice))
		kho_restore_folio(list[0].phys);
	vfree(list);
	return err;
}

static int luo_testbed_retrieve(struct liveupdate_file_op_args *args)
{
	struct file_ser *ser = phys_to_virt(args->serialized_data);
	struct testbed_type *type = type_of(args);
	struct testbed_file *f;
	struct file *file;
	int err;

	if (luo_testbed_faults.retrieve_fails)
		return -(int)luo_testbed_faults.retrieve_fails;
	if (ser->magic != FILE_MAGIC || !ser->frozen)
		return -EUCLEAN;
	err = testbed_use_flbs(type);
	if (err)
		return err;
	f = testbed_file_alloc(type, ser->folios);
	if (!f)
		return -ENOMEM;
	file = anon_inode_getfile(type->device.name, &testbed_fops, f, O_RDWR);
	if (IS_ERR(file)) {
		kfree(f);
		return PTR_ERR(file);
	}
	err = testbed_restore(f, ser);
	if (err) {
		fput(file);
		return err;
	}
	args->file = file;
	return 0;
}

static bool luo_testbed_can_finish(struct liveupdate_file_op_args *args)
{
	return !luo_testbed_faults.can_finish_refuses;
}

static void luo_testbed_finish(struct liveupdate_file_op_args *args)
{
	struct file_ser *ser = phys_to_virt(args->serialized_data);
	struct testbed_type *type = type_of(args);

	if (testbed_use_flbs(type))
		pr_info("%s: finished without its FLBs\n", type->handler.compatible);
	/* What no process has retrieved belongs to nobody. */
	if (ser->magic == FILE_MAGIC) {
		struct testbed_file *f = testbed_file_alloc(type, ser->folios);

		if (f) {
			testbed_restore(f, ser);
			testbed_file_free(f);
		}
	}
	if (!luo_testbed_goes_wrong(finish_leaks))
		kho_restore_free(ser);
}

static const struct liveupdate_file_ops testbed_file_ops = {
	.can_preserve	= luo_testbed_can_preserve,
	.preserve	= luo_testbed_preserve,
	.unpreserve	= luo_testbed_unpreserve,
	.freeze		= luo_testbed_freeze,
	.unfreeze	= luo_testbed_unfreeze,
	.retrieve	= luo_testbed_retrieve,
	.can_finish	= luo_testbed_can_finish,
	.finish		= luo_testbed_finish,
	.owner		= THIS_MODULE,
};

/* Global state */

static void testbed_flb_free(struct flb_ser *state)
{
	for (int i = 0; i < state->spares; i++) {
		struct folio *folio = pfn_folio(PHYS_PFN(state->phys[i]));

		kho_unpreserve_folio(folio);
		folio_put(folio);
	}
	kho_unpreserve_free(state);
}

static void luo_testbed_flb_unpreserve(struct liveupdate_flb_op_args *args)
{
	testbed_flb_free(args->obj);
}

static int testbed_add_spare(struct flb_ser *state)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, SPARE_ORDER);
	int err;

	if (!folio)
		return -ENOMEM;
	err = kho_preserve_folio(folio);
	if (err) {
		folio_put(folio);
		return err;
	}
	state->phys[state->spares++] = PFN_PHYS(folio_pfn(folio));
	return 0;
}

static int luo_testbed_flb_preserve(struct liveupdate_flb_op_args *args)
{
	struct testbed_flb *flb = container_of(args->flb, struct testbed_flb, flb);
	struct flb_ser *state;

	if (luo_testbed_faults.flb_preserve_fails) {
		if (!luo_testbed_faults.flb_preserve_passes)
			return -(int)luo_testbed_faults.flb_preserve_fails;
		luo_testbed_faults.flb_preserve_passes--;
	}
	state = kho_alloc_preserve(struct_size(state, phys, flb->spares));
	if (IS_ERR(state))
		return PTR_ERR(state);
	state->magic = FLB_MAGIC;
	args->obj = state;
	args->data = virt_to_phys(state);
	while (state->spares < flb->spares) {
		int err = testbed_add_spare(state);

		if (err) {
			testbed_flb_free(state);
			return err;
		}
	}
	return 0;
}

static int luo_testbed_flb_retrieve(struct liveupdate_flb_op_args *args)
{
	struct flb_ser *state = phys_to_virt(args->data);

	if (luo_testbed_faults.flb_retrieve_fails)
		return -(int)luo_testbed_faults.flb_retrieve_fails;
	if (state->magic != FLB_MAGIC)
		return -EUCLEAN;
	args->obj = state;
	return 0;
}

static void luo_testbed_flb_finish(struct liveupdate_flb_op_args *args)
{
	struct flb_ser *state = args->obj;

	for (int i = 0; i < state->spares; i++) {
		struct folio *folio = kho_restore_folio(state->phys[i]);

		if (folio)
			folio_put(folio);
	}
	kho_restore_free(state);
}

static const struct liveupdate_flb_ops testbed_flb_ops = {
	.preserve	= luo_testbed_flb_preserve,
	.unpreserve	= luo_testbed_flb_unpreserve,
	.retrieve	= luo_testbed_flb_retrieve,
	.finish		= luo_testbed_flb_finish,
	.owner		= THIS_MODULE,
};

#define TESTBED_FLB(name, ...) { .flb = { .ops = &testbed_flb_ops, .compatible = name }, ##__VA_ARGS__ }

static struct testbed_flb iommu = TESTBED_FLB("iommu-v1");
static struct testbed_flb pci = TESTBED_FLB("pci-v1");
static struct testbed_flb hugetlb = TESTBED_FLB("hugetlb-v1", .spares = 2);

struct liveupdate_flb *luo_testbed_shared_flb = &iommu.flb;

/* A new row is a new handler with its device, and needs nothing else. */
static const int one_page[] = { 0, -1 };
static const int many_orders[] = { 0, 3, 9, -1 };

#define TESTBED_TYPE(node, string, sizes, ...) {						\
	.handler = { .ops = &testbed_file_ops, .compatible = string },			\
	.device = {									\
		.minor = MISC_DYNAMIC_MINOR, .fops = &testbed_fops,			\
		.name = "luo_testbed_" node, .nodename = "luo_testbed/" node,		\
	},										\
	.orders = sizes,								\
	.flbs = { __VA_ARGS__ },							\
}

static struct testbed_type testbed_types[] = {
	TESTBED_TYPE("vfio", "vfio-pci-v1", one_page, &iommu, &pci),
	TESTBED_TYPE("iommufd", "iommufd-v1", one_page, &iommu),
	TESTBED_TYPE("kvm", "kvm_vm_luo_v1", one_page),
	TESTBED_TYPE("hugetlb", "hugetlb-memfd-v1", many_orders, &hugetlb),
	TESTBED_TYPE("nvme", "nvme-v1", one_page),
};

/* A kernel that has a handler less than the one before it. */
static char *without = "";
module_param(without, charp, 0444);
MODULE_PARM_DESC(without, "compatible string of a handler that this kernel is not to have");

static int __init testbed_register(struct testbed_type *type)
{
	int err = misc_register(&type->device);

	if (!err)
		err = liveupdate_register_file_handler(&type->handler);
	for (int i = 0; !err && type->flbs[i]; i++)
		err = liveupdate_register_flb(&type->handler, &type->flbs[i]->flb);
	return err;
}

static int __init luo_testbed_handlers_init(void)
{
	if (!liveupdate_enabled())
		return 0;
	for (int i = 0; i < ARRAY_SIZE(testbed_types); i++) {
		int err;

		if (!strcmp(testbed_types[i].handler.compatible, without))
			continue;
		err = testbed_register(&testbed_types[i]);
		if (err) {
			pr_err("cannot register %s: %pe\n", testbed_types[i].handler.compatible, ERR_PTR(err));
			return err;
		}
	}
	return 0;
}
late_initcall(luo_testbed_handlers_init);

#endif /* CONFIG_LIVEUPDATE */
