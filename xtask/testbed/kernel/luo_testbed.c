// SPDX-License-Identifier: GPL-2.0
/*
 * luo_testbed - what the luo-trace testbed adds to a kernel
 *
 * LUO exports no symbol to modules, so this file is compiled into the kernel, and
 * with it file handlers (luo_testbed_handlers.c) and ways to break LUO's promises
 * (luo_testbed_tamper.c). Nothing of it changes anything until it is asked to, on
 * the kernel command line or by a switch in debugfs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/ftrace.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/ktime.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/reboot.h>
#include "luo_testbed.h"

/*
 * A real host takes seconds to shut its devices down, and userspace runs all
 * the while. Virtual devices are gone in microseconds, and with them the way
 * out for whatever an agent writes in its last moments.
 */
static unsigned int grace_ms;
module_param(grace_ms, uint, 0644);
MODULE_PARM_DESC(grace_ms, "milliseconds that userspace keeps running on a restart before devices are shut down");

static int luo_testbed_restart(struct notifier_block *nb, unsigned long action, void *cmd)
{
	if (action == SYS_RESTART && grace_ms) {
		pr_info("userspace has %u ms before devices are shut down\n", grace_ms);
		msleep(grace_ms);
	}
	return NOTIFY_DONE;
}

static struct notifier_block luo_testbed_restart_nb = {
	.notifier_call = luo_testbed_restart,
};

/* QEMU's isa-debugcon, which passes each byte on at once. */
#define CLOCK_PORT 0xe9

/* Tells the host what this kernel's clock says: @boot and CLOCK_MONOTONIC, as a line. */
static int luo_testbed_tell_clock(void *data, u64 boot)
{
	unsigned long flags;
	char line[48];
	int length;

	local_irq_save(flags);
	length = scnprintf(line, sizeof(line), "%llu %llu\n", boot, ktime_get_ns());
	outsb(CLOCK_PORT, line, length);
	local_irq_restore(flags);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(luo_testbed_clock_fops, NULL, luo_testbed_tell_clock, "%llu\n");

/* Shuts function tracing down for good, as the kernel does when it finds a fault in it. */
static int luo_testbed_kill_ftrace(void *data, u64 unused)
{
	ftrace_kill();
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(luo_testbed_kill_ftrace_fops, NULL, luo_testbed_kill_ftrace, "%llu\n");

struct luo_testbed_faults luo_testbed_faults;
struct dentry *luo_testbed_dir;

static int __init luo_testbed_init(void)
{
	luo_testbed_dir = debugfs_create_dir("luo_testbed", NULL);
#define X(name) debugfs_create_u32(#name, 0600, luo_testbed_dir, &luo_testbed_faults.name);
	LUO_TESTBED_FAULTS(X)
#undef X
	debugfs_create_file_unsafe("clock", 0200, luo_testbed_dir, NULL, &luo_testbed_clock_fops);
	debugfs_create_file_unsafe("kill_ftrace", 0200, luo_testbed_dir, NULL, &luo_testbed_kill_ftrace_fops);
	return register_reboot_notifier(&luo_testbed_restart_nb);
}
/* Before the late_initcalls of the other files, which add to the directory. */
device_initcall_sync(luo_testbed_init);
