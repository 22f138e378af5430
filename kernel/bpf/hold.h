/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Hold-downs: which servers a VIP passes over, and when it waits.
 *
 * The functions with loops are global and take numbers only, so that the
 * verifier looks at each of them once instead of on every path to it, and the
 * entry point's stack has room for a whole entry. Plain stores: two CPUs that
 * race lose at most one hold, which costs one connect more.
 */
#ifndef LICTOR_HOLD_H
#define LICTOR_HOLD_H

#include "maps.h"

__noinline int hold_down(__u32 vip_slot, __u16 slot, __u64 now, __u8 reason)
{
	struct vip_words *st = state_of(vip_slot);
	__u64 oldest = ~0ULL;
	__u32 use = 0;

	if (!st)
		return 0;
	for (int i = 0; i < MAX_RANKED; i++) {
		/* Its own is best, then a free one, then the oldest. */
		__u64 at = st->holds[i].slot == slot ? 0 : st->holds[i].at + 1;

		if (at < oldest) {
			oldest = at;
			use = i;
		}
	}
	use &= MAX_RANKED - 1; /* always so; the verifier wants to see it */
	st->holds[use].slot = slot;
	st->holds[use].reason = reason;
	st->holds[use].at = now;
	return 0;
}

/* Whether any server was held down and not forgiven: hardly ever, and found out without a call. */
static __always_inline bool any_hold(const struct vip_words *st)
{
	__u64 at = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < MAX_RANKED; i++)
		at |= st->holds[i].at;
	return at;
}

/* Forget a hold of this reason; HOLD_NONE: of any. */
__noinline int release(__u32 vip_slot, __u16 slot, __u8 reason)
{
	struct vip_words *st = state_of(vip_slot);

	if (!st)
		return 0;
	for (int i = 0; i < MAX_RANKED; i++) {
		struct hold *h = &st->holds[i];

		if (h->slot == slot && (reason == HOLD_NONE || h->reason == reason))
			h->at = 0;
	}
	return 0;
}

/* Forget a hold that was noted for this moment. */
__noinline int release_at(__u32 vip_slot, __u64 at)
{
	struct vip_words *st = state_of(vip_slot);

	if (!st)
		return 0;
	for (int i = 0; i < MAX_RANKED; i++) {
		if (st->holds[i].at == at)
			st->holds[i].at = 0;
	}
	return 0;
}

/* When the server was last at fault, if that is recent enough to pass it over; else 0. */
__noinline __u64 held_at(__u32 vip_slot, __u16 slot, __u64 now)
{
	struct vip_words *st = state_of(vip_slot);
	__u32 i = slot;
	struct server_words *srv = bpf_map_lookup_elem(&server_state, &i);
	__u64 at = 0;

	if (srv) {
		__u64 refused = srv->refused_at;

		if (refused && refused + hold_refused_ns > now)
			at = refused;
	}
	if (!st)
		return at;
	for (int i = 0; i < MAX_RANKED; i++) {
		struct hold *h = &st->holds[i];
		__u64 span = h->reason == HOLD_BOUNCED ? hold_bounced_ns : hold_failed_ns;

		if (h->at && h->slot == slot && h->at + span > now && h->at > at)
			at = h->at;
	}
	return at;
}

/* Whether the server has taken somebody of this host since. */
static __always_inline bool served_since(__u16 slot, __u64 at)
{
	__u32 i = slot;
	struct server_words *srv = bpf_map_lookup_elem(&server_state, &i);

	return srv && srv->served_at > at;
}

/*
 * The first ranked server that is not held down. When all are, one that has
 * served another VIP since: it has room again, and whoever waited is let
 * through to it once. Else the one held longest; returns whether it is that.
 */
static __always_inline bool choose(const struct vip_words *st, const struct vip *v, __u64 now,
				   struct backend *out)
{
	__u32 first = v->ranked[0].slot;
	struct server_words *srv = bpf_map_lookup_elem(&server_state, &first);
	__u64 oldest = ~0ULL;
	bool found = false;
	bool room = false;

	if (!any_hold(st) && !(srv && srv->refused_at)) {
		*out = v->ranked[0];
		return false;
	}
#pragma clang loop unroll(full)
	for (int i = 0; i < MAX_RANKED; i++) {
		if (i < v->n && !found) {
			__u64 at = held_at(v->slot, v->ranked[i].slot, now);
			bool again = at && !room && served_since(v->ranked[i].slot, at);

			found = !at;
			if (found || again || (!room && at < oldest)) {
				oldest = at;
				*out = v->ranked[i];
			}
			room |= again;
		}
	}
	return !found && !room;
}

/* From three quarters to five quarters of it, or a fleet comes back in step. */
static __always_inline __u64 jittered(__u32 ms)
{
	return (ms - ms / 4 + bpf_get_prandom_u32() % (ms / 2 + 1)) * NSEC_PER_MSEC;
}

/*
 * Every server is held down, and the one held longest is to be tried. A fleet
 * that found no room must not hammer the servers, and must notice soon when
 * there is room: for a while all VIPs of the host together try a server once
 * every wait_min, since the first that is served lets the others through. Then
 * each VIP waits for itself, twice as long each time. A change of the set
 * begins anew and lets one connect through at once. So does time begin anew: a
 * wait that ended longer ago than the longest one belongs to a former trouble.
 */
static __always_inline bool must_wait(struct vip_words *st, const struct vip *v, __u16 slot,
				      __u64 now)
{
	__u32 i = slot;
	struct server_words *srv = bpf_map_lookup_elem(&server_state, &i);
	__u64 until = st->wait_until;
	bool new_set = st->wait_set && st->wait_set != v->set;

	if (new_set || now > until + wait_max_ms * NSEC_PER_MSEC) {
		st->trouble_at = now;
		st->wait_ms = 0;
	}
	st->wait_set = v->set;
	if (elapsed(st->trouble_at, now) < eager_ns && srv) {
		__u64 next = srv->probed_at + wait_min_ms * NSEC_PER_MSEC;

		if (now < next && !new_set) {
			st->wait_until = next;
			return true;
		}
		st->wait_until = now + wait_min_ms * NSEC_PER_MSEC;
	} else {
		__u32 ms = st->wait_ms ? st->wait_ms * 2 : wait_min_ms;

		if (now < until && !new_set)
			return true;
		if (ms > wait_max_ms)
			ms = wait_max_ms;
		st->wait_ms = ms;
		st->wait_until = now + jittered(ms);
	}
	if (srv)
		srv->probed_at = now;
	return false;
}

#endif
