// SPDX-License-Identifier: GPL-2.0
/*
 * luo_testbed - what the luo-trace testbed adds to a kernel
 *
 * LUO exports no symbol to modules, so this file is compiled into the kernel.
 * It changes nothing until it is asked to on the kernel command line.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/init.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/reboot.h>

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

static int __init luo_testbed_init(void)
{
	return register_reboot_notifier(&luo_testbed_restart_nb);
}
late_initcall(luo_testbed_init);
