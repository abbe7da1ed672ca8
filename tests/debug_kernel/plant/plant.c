// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plants a bug, to show that the debug kernel finds one of its kind. Loading
 * it with the name of a bug makes the bug.
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

static void use_after_free(void)
{
	int *memory = kmalloc(64, GFP_KERNEL);

	if (!memory)
		return;
	kfree(memory);
	WRITE_ONCE(*memory, 1);
}

static void leak(void)
{
	int *memory;
	int i;

	/* Several, as a stale copy in a register or on a stack may hide one. */
	for (i = 0; i < 8; i++) {
		memory = kmalloc(64, GFP_KERNEL);
		if (memory)
			WRITE_ONCE(*memory, i);
	}
}

static void lock_order(void)
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

static void rcu_usage(void)
{
	(void)rcu_dereference(guarded);
}

static void refcount(void)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

static int __init plant_init(void)
{
	if (!strcmp(bug, "use-after-free"))
		use_after_free();
	else if (!strcmp(bug, "leak"))
		leak();
	else if (!strcmp(bug, "lock-order"))
		lock_order();
	else if (!strcmp(bug, "rcu-usage"))
		rcu_usage();
	else if (!strcmp(bug, "refcount"))
		refcount();
	else
		return -EINVAL;
	return 0;
}

static void __exit plant_exit(void)
{
}

module_init(plant_init);
module_exit(plant_exit);

MODULE_DESCRIPTION("Plants a bug for a debug kernel to find");
MODULE_LICENSE("GPL");
