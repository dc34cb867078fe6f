/* SPDX-License-Identifier: GPL-2.0 */
/*
 * luo_testbed - the ways in which the testbed's kernel can be told to misbehave
 *
 * Each switch is a file of its name in /sys/kernel/debug/luo_testbed/. It is off (0) until a number is written to it.
 */
#ifndef _LUO_TESTBED_H
#define _LUO_TESTBED_H

#include <linux/printk.h>
#include <linux/types.h>

/*
 * What the handlers of luo_testbed_handlers.c do wrong.
 *
 * ERRNO: every such call fails with this error until the switch is off again.
 * COUNT: the COUNTth such call from now on goes wrong, that one alone.
 * LEVEL: every such call goes wrong until the switch is off again.
 */
#define LUO_TESTBED_FAULTS(X)							\
	X(preserve_fails)	/* ERRNO: preserve */				\
	X(preserve_leaks)	/* COUNT: preserve fails, and leaves a folio preserved */ \
	X(preserve_ignores)	/* COUNT: preserve succeeds though KHO had no memory for a key */ \
	X(preserve_scratch)	/* COUNT: preserve adds a key of scratch memory, until unpreserve */ \
	X(freeze_fails)		/* ERRNO: freeze, after freeze_passes calls */	\
	X(freeze_passes)	/* how many freezes succeed before freeze_fails tells */ \
	X(retrieve_fails)	/* ERRNO: retrieve, before it has touched anything */ \
	X(restore_twice)	/* COUNT: retrieve restores its first folio twice */ \
	X(can_finish_refuses)	/* LEVEL: can_finish says no */			\
	X(finish_leaks)		/* COUNT: finish leaves the file's header where it is */ \
	X(unpreserve_leaks)	/* COUNT: unpreserve leaves a folio preserved */ \
	X(unpreserve_order)	/* COUNT: unpreserve takes the largest folio for one of order 0 */ \
	X(unpreserve_twice)	/* COUNT: unpreserve unpreserves a folio twice */ \
	X(flb_preserve_fails)	/* ERRNO: FLB preserve, after flb_preserve_passes calls */ \
	X(flb_preserve_passes)	/* how many succeed before flb_preserve_fails tells */ \
	X(flb_retrieve_fails)	/* ERRNO: FLB retrieve */			\
	X(flb_get_leaks)	/* COUNT: preserve gets its first FLB and never puts it */ \
	X(flb_put_twice)	/* COUNT: preserve puts its first FLB, though it got none */ \
	X(flb_not_retrieved)	/* LEVEL: retrieve and finish ask for no FLB */

struct luo_testbed_faults {
#define X(name) u32 name;
	LUO_TESTBED_FAULTS(X)
#undef X
};

extern struct luo_testbed_faults luo_testbed_faults;

struct dentry;
extern struct dentry *luo_testbed_dir;

/* Counts one call down; whether it is the one that goes wrong. */
static inline bool luo_testbed_counted(u32 *countdown, const char *name)
{
	if (!*countdown || --*countdown)
		return false;
	pr_info("%s\n", name);
	return true;
}

#define luo_testbed_goes_wrong(fault) luo_testbed_counted(&luo_testbed_faults.fault, #fault)

struct liveupdate_flb;

/* The FLB whose counts the tampering changes. */
extern struct liveupdate_flb *luo_testbed_shared_flb;

#endif /* _LUO_TESTBED_H */
