// SPDX-License-Identifier: GPL-2.0
/*
 * luo_testbed_tamper - breaks the promises that no handler can make LUO break
 *
 * A switch with a symbol changes LUO's memory when that function is entered or
 * returns: the COUNTth call from now on, that one alone. It is a kretprobe, made
 * when the switch is first used. Its entry comes before that of a BPF program on
 * the same function, and its return after that program's: a tracer sees what LUO
 * sees on entry, and what LUO has done on return.
 *
 * A switch without a symbol acts when it is written to.
 *
 * Nothing here takes a lock: it runs where LUO holds its own, or while nobody
 * uses LUO.
 */
#define pr_fmt(fmt) "luo_testbed: " fmt

#ifdef CONFIG_LIVEUPDATE

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kallsyms.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/luo.h>
#include <linux/kprobes.h>
#include <linux/liveupdate.h>
#include <linux/miscdevice.h>
#include <linux/rwsem.h>
#include <linux/sizes.h>
#include <linux/xarray.h>
#include "luo_internal.h"
#include "luo_testbed.h"

/* Mirrors luo_file.c, 7.2 and 7.3. */
struct luo_file {
	struct liveupdate_file_handler *fh;
	struct file *file;
	u64 serialized_data;
	void *private_data;
	int retrieve_status;
	struct mutex mutex;
	struct list_head list;
	u64 token;
};

/* Mirrors luo_session.c, 7.2 and 7.3. */
struct luo_session_header {
	long count;
	struct list_head list;
	struct rw_semaphore rwsem;
	struct kho_block_set block_set;
	u64 *sessions_pa;
	bool active;
};

struct luo_session_global {
	struct luo_session_header incoming;
	struct luo_session_header outgoing;
};

/* Mirrors luo_core.c, 7.2 and 7.3. */
struct luo_global {
	bool enabled;
	struct luo_ser *luo_ser_out;
	u64 liveupdate_num;
};

struct luo_device_state {
	struct miscdevice miscdev;
	atomic_t in_use;
};

/* One way to tamper. What @enter leaves in @kept, @leave gets. */
struct tamper {
	const char *name;
	const char *symbol;
	void (*enter)(struct pt_regs *regs, void **kept);
	void (*leave)(struct pt_regs *regs, void **kept);
	int (*now)(void);
	u32 countdown;
	struct kretprobe probe;
};

#define ARG(type, n) ((type)regs_get_kernel_argument(regs, n))

/* A bit of a name or a token that makes it another one. */
#define OTHER_NAME ((char)0x80)
#define OTHER_TOKEN (1ULL << 63)

static struct luo_session_global *sessions(void)
{
	return (void *)kallsyms_lookup_name("luo_session_global");
}

static struct luo_file *file_of(struct luo_file_set *set, u64 token)
{
	struct luo_file *file;

	list_for_each_entry(file, &set->files_list, list)
		if (file->token == token)
			return file;
	return NULL;
}

/* Takes the last file out of LUO's sight. What it holds is lost. */
static void lose_last(struct luo_file_set *set)
{
	if (!list_empty(&set->files_list))
		list_del_init(set->files_list.prev);
}

/* Sessions */

static void free_device(struct pt_regs *regs, void **kept)
{
	struct miscdevice *device = ARG(struct file *, 1)->private_data;

	atomic_set(&container_of(device, struct luo_device_state, miscdev)->in_use, 0);
}

static void rename_session(struct pt_regs *regs, void **kept)
{
	struct luo_session_header *header = ARG(void *, 0);
	struct luo_session *new = ARG(void *, 1), *session;

	list_for_each_entry(session, &header->list, list) {
		if (!strcmp(session->name, new->name)) {
			session->name[0] ^= OTHER_NAME;
			*kept = session;
			return;
		}
	}
}

static void rename_back(struct pt_regs *regs, void **kept)
{
	struct luo_session *session = *kept;

	if (session)
		session->name[0] ^= OTHER_NAME;
}

static void turn_session(struct pt_regs *regs, void **kept)
{
	struct luo_session *session = ARG(struct file *, 0)->private_data;

	session->retrieved = !session->retrieved;
	*kept = session;
}

static void turn_back(struct pt_regs *regs, void **kept)
{
	struct luo_session *session = *kept;

	session->retrieved = !session->retrieved;
}

static void forget_session_retrieved(struct pt_regs *regs, void **kept)
{
	struct luo_session *session;

	list_for_each_entry(session, &sessions()->incoming.list, list)
		if (!strcmp(session->name, ARG(char *, 0)))
			session->retrieved = false;
}

static int count_session(void)
{
	sessions()->outgoing.count++;
	return 0;
}

/* Files */

static void rename_token(struct pt_regs *regs, void **kept)
{
	struct luo_file *file = file_of(ARG(void *, 0), ARG(u64, 1));

	if (file)
		file->token ^= OTHER_TOKEN;
	*kept = file;
}

static void rename_token_back(struct pt_regs *regs, void **kept)
{
	struct luo_file *file = *kept;

	if (file)
		file->token ^= OTHER_TOKEN;
}

static int forget_objects(void)
{
	struct xarray *objects = (void *)kallsyms_lookup_name("luo_preserved_files");
	unsigned long id;
	void *file;

	if (!objects)
		return -ENOENT;
	xa_for_each(objects, id, file)
		xa_erase(objects, id);
	return 0;
}

static void lose_file(struct pt_regs *regs, void **kept)
{
	struct luo_file_set *set = ARG(void *, 0);

	lose_last(set);
	set->count--;
}

static void first_becomes_last(struct pt_regs *regs, void **kept)
{
	struct luo_file_set *set = ARG(void *, 0);

	if (!list_empty(&set->files_list))
		list_rotate_left(&set->files_list);
}

/* While LUO finishes the last file of the only incoming session. */
static void reorder_incoming(struct pt_regs *regs, void **kept)
{
	struct luo_session *session;

	list_for_each_entry(session, &sessions()->incoming.list, list)
		if (!list_empty(&session->file_set.files_list))
			list_rotate_left(&session->file_set.files_list);
}

static void forget_retrieved(struct pt_regs *regs, void **kept)
{
	struct luo_file *file = file_of(ARG(void *, 0), ARG(u64, 1));

	if (file)
		file->retrieve_status = 0;
}

/* What a tracer has seen the handler say is not what LUO hears. */
static void can_finish(struct pt_regs *regs, void **kept)
{
	regs_set_return_value(regs, true);
}

static void change_status(struct pt_regs *regs, void **kept)
{
	struct luo_file_set *set = ARG(void *, 0);

	if (!list_empty(&set->files_list))
		list_last_entry(&set->files_list, struct luo_file, list)->retrieve_status = -EIO;
}

static void keep_set(struct pt_regs *regs, void **kept)
{
	*kept = ARG(void *, 0);
}

static void miss_file(struct pt_regs *regs, void **kept)
{
	lose_last(*kept);
}

/* Freeze and reboot */

static void hide_files(struct pt_regs *regs, void **kept)
{
	struct luo_file_set *set = ARG(void *, 0);

	kept[0] = set;
	kept[1] = (void *)set->count;
	set->count = 0;
}

static void show_files(struct pt_regs *regs, void **kept)
{
	struct luo_file_set *set = kept[0];

	set->count = (u64)kept[1];
}

static void nothing(struct pt_regs *regs, void **kept)
{
}

static void lose_file_on_abort(struct pt_regs *regs, void **kept)
{
	struct luo_session *session;

	if (!regs_return_value(regs))
		return;
	list_for_each_entry(session, &sessions()->outgoing.list, list) {
		lose_last(&session->file_set);
		session->file_set.count--;
		return;
	}
}

/* LUO has done all of it, and its caller hears that it has not. */
static void come_back(struct pt_regs *regs, void **kept)
{
	regs_set_return_value(regs, -EIO);
}

static int unlock_sessions(void)
{
	struct rw_semaphore *lock = (void *)kallsyms_lookup_name("luo_session_serialize_rwsem");

	if (!lock || !rwsem_is_locked(lock))
		return -EINVAL;
	up_write(lock);
	return 0;
}

/* Global state */

static struct luo_flb_private *shared_flb(void)
{
	return &ACCESS_PRIVATE(luo_testbed_shared_flb, private);
}

static int forget_flb_users(void)
{
	refcount_set(&shared_flb()->outgoing.count, 0);
	return 0;
}

static int add_flb_user(void)
{
	refcount_inc(&shared_flb()->outgoing.count);
	return 0;
}

static void serialize_more_users(struct pt_regs *regs, void **kept)
{
	add_flb_user();
}

static int forget_flb_retrieved(void)
{
	shared_flb()->incoming.retrieve_status = 0;
	shared_flb()->incoming.obj = NULL;
	return 0;
}

/* A file of a handler whose second FLB failed: the first one keeps its user. */
static void keep_flb_user(struct pt_regs *regs, void **kept)
{
	if (refcount_read(&shared_flb()->outgoing.count))
		add_flb_user();
}

/* KHO */

/* Adds two subtrees of one name: between, the first one's name is changed in KHO's tree. */
static int add_subtree_twice(void)
{
	static const char name[] = "luo-testbed";
	/* Mirrors the beginning of struct kho_out in kexec_handover.c, 7.2 and 7.3. */
	struct {
		void *fdt;
	} *out = (void *)kallsyms_lookup_name("kho_out");
	void *first = kho_alloc_preserve(SZ_4K), *second = kho_alloc_preserve(SZ_4K);
	char *at;
	int err;

	if (!out || IS_ERR(first) || IS_ERR(second))
		return -ENOMEM;
	err = kho_add_subtree(name, first, SZ_4K);
	if (err)
		return err;
	for (at = out->fdt; at < (char *)out->fdt + PAGE_SIZE - sizeof(name); at++)
		if (!memcmp(at, name, sizeof(name)))
			at[sizeof(name) - 2] = 'D';
	return kho_add_subtree(name, second, SZ_4K);
}

/* What the next kernel is told */

static struct luo_ser *outgoing(void)
{
	struct luo_global *global = (void *)kallsyms_lookup_name("luo_global");

	return global ? global->luo_ser_out : NULL;
}

/* The next kernel knows no such ABI, and panics. */
static int change_abi(void)
{
	struct luo_ser *ser = outgoing();

	if (!ser)
		return -ENOENT;
	ser->compatible[0] ^= OTHER_NAME;
	return 0;
}

static int skip_number(void)
{
	struct luo_ser *ser = outgoing();

	if (!ser)
		return -ENOENT;
	ser->liveupdate_num++;
	return 0;
}

/* Takes the last entry out of the first block. */
static void drop_entry(u64 block_pa)
{
	struct kho_block_header_ser *block = phys_to_virt(block_pa);

	if (block_pa && block->count)
		block->count--;
}

static void drop_session(struct pt_regs *regs, void **kept)
{
	drop_entry(outgoing()->sessions_pa);
}

static void keep_serialized_set(struct pt_regs *regs, void **kept)
{
	*kept = ARG(void *, 1);
}

static void drop_file(struct pt_regs *regs, void **kept)
{
	struct luo_file_set_ser *set = *kept;

	if (!set->count)
		return;
	set->count--;
	drop_entry(set->files);
}

/* Moves the handle of every FLB's data on by a word. */
static void change_flb_data(struct pt_regs *regs, void **kept)
{
	struct luo_flb_header_ser *header = phys_to_virt(outgoing()->flbs_pa);
	struct luo_flb_ser *flbs = (void *)(header + 1);

	for (u64 i = 0; i < header->count; i++)
		flbs[i].data += sizeof(u64);
}

static struct tamper tampers[] = {
	{ .name = "device_not_in_use", .symbol = "luo_open", .enter = free_device },
	{ .name = "session_name_free", .symbol = "luo_session_insert", .enter = rename_session, .leave = rename_back },
	{ .name = "session_turned", .symbol = "luo_session_ioctl", .enter = turn_session, .leave = turn_back },
	{ .name = "session_not_retrieved", .symbol = "luo_session_retrieve", .enter = forget_session_retrieved },
	{ .name = "session_count", .now = count_session },
	{ .name = "file_token_free", .symbol = "luo_preserve_file", .enter = rename_token, .leave = rename_token_back },
	{ .name = "file_objects_free", .now = forget_objects },
	{ .name = "file_lost", .symbol = "luo_file_unpreserve_files", .enter = lose_file },
	{ .name = "unpreserve_reordered", .symbol = "luo_file_unpreserve_files", .enter = first_becomes_last },
	{ .name = "refusal_unheard", .symbol = "luo_testbed_can_finish", .enter = nothing, .leave = can_finish },
	{ .name = "finish_reordered", .symbol = "luo_testbed_finish", .enter = reorder_incoming },
	{ .name = "finish_status", .symbol = "luo_file_finish", .enter = change_status },
	{ .name = "retrieve_forgotten", .symbol = "luo_retrieve_file", .enter = forget_retrieved },
	{ .name = "deserialize_loses", .symbol = "luo_file_deserialize", .enter = keep_set, .leave = miss_file },
	{ .name = "unfreeze_skipped", .symbol = "luo_file_unfreeze", .enter = hide_files, .leave = show_files },
	{ .name = "abort_loses_file", .symbol = "luo_session_serialize", .enter = nothing, .leave = lose_file_on_abort },
	{ .name = "reboot_comes_back", .symbol = "liveupdate_reboot", .enter = nothing, .leave = come_back },
	{ .name = "sessions_unlocked", .now = unlock_sessions },
	{ .name = "flb_users_forgotten", .now = forget_flb_users },
	{ .name = "flb_user_added", .now = add_flb_user },
	{ .name = "flb_rollback_skipped", .symbol = "luo_testbed_flb_preserve", .enter = keep_flb_user },
	{ .name = "flb_serialized_users", .symbol = "luo_flb_serialize", .enter = serialize_more_users },
	{ .name = "flb_retrieve_forgotten", .now = forget_flb_retrieved },
	{ .name = "subtree_twice", .now = add_subtree_twice },
	{ .name = "abi_changed", .now = change_abi },
	{ .name = "number_skipped", .now = skip_number },
	{ .name = "session_not_serialized", .symbol = "luo_session_serialize", .enter = nothing, .leave = drop_session },
	{ .name = "file_not_serialized", .symbol = "luo_file_freeze", .enter = keep_serialized_set, .leave = drop_file },
	{ .name = "flb_data_changed", .symbol = "luo_flb_serialize", .enter = nothing, .leave = change_flb_data },
};

static int tamper_enter(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct tamper *tamper = container_of(get_kretprobe(instance), struct tamper, probe);
	void **kept = (void **)instance->data;

	if (!luo_testbed_counted(&tamper->countdown, tamper->name))
		return 1;
	kept[0] = NULL;
	tamper->enter(regs, kept);
	return !tamper->leave;
}
NOKPROBE_SYMBOL(tamper_enter);

static int tamper_leave(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct tamper *tamper = container_of(get_kretprobe(instance), struct tamper, probe);

	tamper->leave(regs, (void **)instance->data);
	return 0;
}
NOKPROBE_SYMBOL(tamper_leave);

static int tamper_get(void *data, u64 *value)
{
	struct tamper *tamper = data;

	*value = tamper->countdown;
	return 0;
}

static int tamper_set(void *data, u64 value)
{
	struct tamper *tamper = data;
	int err;

	if (tamper->now) {
		pr_info("%s\n", tamper->name);
		return value ? tamper->now() : 0;
	}
	if (value && !tamper->probe.kp.symbol_name) {
		tamper->probe.kp.symbol_name = tamper->symbol;
		tamper->probe.entry_handler = tamper_enter;
		tamper->probe.handler = tamper_leave;
		tamper->probe.data_size = 2 * sizeof(void *);
		err = register_kretprobe(&tamper->probe);
		if (err) {
			memset(&tamper->probe, 0, sizeof(tamper->probe));
			return err;
		}
	}
	tamper->countdown = value;
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(tamper_fops, tamper_get, tamper_set, "%llu\n");

static int __init luo_testbed_tamper_init(void)
{
	if (!liveupdate_enabled())
		return 0;
	for (int i = 0; i < ARRAY_SIZE(tampers); i++)
		debugfs_create_file_unsafe(tampers[i].name, 0600, luo_testbed_dir, &tampers[i], &tamper_fops);
	return 0;
}
late_initcall(luo_testbed_tamper_init);

#endif /* CONFIG_LIVEUPDATE */
