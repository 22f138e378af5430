/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reading an entry whole, and who may use it. */
#ifndef LICTOR_OWNER_H
#define LICTOR_OWNER_H

#include "maps.h"

#define READ_TRIES 4

/*
 * Odd multipliers, one for each word, so that words which change places or are
 * mixed from two versions give another sum. The multiplications do not depend
 * on each other, which keeps this at some ten nanoseconds; a call would cost more.
 */
static __always_inline __u32 vip_sum(const struct vip *v)
{
	const __u64 *w = (const __u64 *)v;
	__u64 sum = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < 26; i++)
		sum += w[i] * (0x9e3779b97f4a7c15ULL * (2 * i + 1));
	return sum ^ (sum >> 32);
}

/*
 * Copy the entry of a key. The hash may rewrite the element under our hands,
 * and nothing orders our reads on a weakly ordered machine: the sum tells.
 */
static __always_inline enum reason vip_read(const struct vip_key *key, struct vip *v)
{
	for (int try = 0; try < READ_TRIES; try++) {
		const struct vip *e = bpf_map_lookup_elem(&vips, key);

		if (!e)
			return REASON_NO_ENTRY;
		__builtin_memcpy(v, e, sizeof(*v));
		barrier();
		if (v->gen == v->gen_last && v->sum == vip_sum(v) &&
		    same_addr(v->key.addr, key->addr) && v->key.port == key->port &&
		    v->key.proto == key->proto && v->n <= MAX_RANKED)
			return REASON_NONE;
	}
	/* Fails closed: a guess could hand one proxy's token to another's server. */
	return REASON_TORN;
}

static __always_inline enum reason owner_check(const struct vip *v, __u64 netns)
{
	__u64 cgroup;

	switch (v->owner_kind) {
	case OWNER_ANY:
		return REASON_NONE;
	case OWNER_NETNS:
		return netns == v->owner_id ? REASON_NONE : REASON_STRANGER;
	case OWNER_CGROUP:
		/*
		 * An ancestor, so that a pod's own sub-cgroups are its owner too. That of
		 * level 0 is everybody's, and the id of one that is not there is 0.
		 */
		if (!v->owner_level)
			return REASON_STRANGER;
		cgroup = bpf_get_current_ancestor_cgroup_id(v->owner_level);
		return cgroup && cgroup == v->owner_id ? REASON_NONE : REASON_STRANGER;
	default:
		return REASON_OWNER_UNRESOLVED;
	}
}

#endif
