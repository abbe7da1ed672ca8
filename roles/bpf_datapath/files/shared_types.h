// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keeps types in the object's BTF that no map or global function refers to. The collection
 * compares its own declarations with them before it loads the object.
 */
#ifndef PODNET_SHARED_TYPES_H
#define PODNET_SHARED_TYPES_H

#include "config.h"
#include "drops.h"
#include "endpoints.h"
#include "identity.h"
#include "pacing.h"
#include "policy.h"
#include "socket_stale.h"

/* Unused by programs. */
const volatile struct {
	enum cidr_flag cidr_flag;
	enum config_feature config_feature;
	enum endpoint_enforce endpoint_enforce;
	enum identity identity;
	enum pacing_limit pacing_limit;
	enum pod_flag pod_flag;
	enum policy_direction policy_direction;
	enum service_flag service_flag;
	enum verdict verdict;
	struct drop_event drop_event;
	struct stale_socket stale_socket;
} shared_types;

#endif
