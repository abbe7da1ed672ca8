// SPDX-License-Identifier: GPL-2.0-only
/*
 * On load, triggers the bug that the parameter names. The tests check that the
 * debug kernel reports each of them.
 */

#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/string.h>

static char *bug = "";
module_param(bug, charp, 0);

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static int __rcu *guarded;

static void plant_use_after_free(void)
{
	int *memory = kmalloc(64, GFP_KERNEL);

	if (!memory)
		return;
	kfree(memory);
	WRITE_ONCE(*memory, 1);
}

static void plant_leak(void)
{
	int *memory;
	int i;

	/* Several: a stale pointer in a register or on a stack may hide one. */
	for (i = 0; i < 8; i++) {
		memory = kmalloc(64, GFP_KERNEL);
		if (memory)
			WRITE_ONCE(*memory, i);
	}
}

static void plant_lock_order(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);

	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static void plant_rcu_usage(void)
{
	(void)rcu_dereference(guarded);
}

static void plant_refcount(void)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

static int __init plant_init(void)
{
	if (!strcmp(bug, "use-after-free"))
		plant_use_after_free();
	else if (!strcmp(bug, "leak"))
		plant_leak();
	else if (!strcmp(bug, "lock-order"))
		plant_lock_order();
	else if (!strcmp(bug, "rcu-usage"))
		plant_rcu_usage();
	else if (!strcmp(bug, "refcount"))
		plant_refcount();
	else
		return -EINVAL;
	return 0;
}

static void __exit plant_exit(void)
{
}

module_init(plant_init);
module_exit(plant_exit);

MODULE_DESCRIPTION("Triggers bugs that a debug kernel must report");
MODULE_LICENSE("GPL");
