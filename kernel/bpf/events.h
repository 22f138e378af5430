/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Records of the event ring. A full ring drops the record and counts it; it never blocks. */
#ifndef LICTOR_EVENTS_H
#define LICTOR_EVENTS_H

#include "maps.h"

static __always_inline struct event *event_new(__u8 kind, __u64 now)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(REASON_RING_DROPPED);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->version = EVENT_VERSION;
	e->size = sizeof(*e);
	e->kind = kind;
	e->at = now;
	return e;
}

/*
 * To wake the reader costs a connect more than all the rest of the hook. So only
 * what the daemon acts on does, and whatever fills another part of the ring; the
 * reader looks for the rest now and then.
 */
static __always_inline void event_send(struct event *e)
{
	bool urgent = e->kind == EVENT_FAILED || e->kind == EVENT_FAILED_LOCAL ||
		      e->kind == EVENT_BOUNCED;
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	if (urgent || (waiting & (wake_bytes - 1)) < sizeof(*e) + BPF_RINGBUF_HDR_SZ)
		bpf_ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
	else
		bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

/* The process that calls connect. */
static __always_inline void event_caller(struct event *e, struct bpf_sock_addr *ctx)
{
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	e->cgroup_id = bpf_get_current_cgroup_id();
	e->netns = bpf_get_netns_cookie(ctx);
}

static __always_inline void event_denied(struct bpf_sock_addr *ctx, const struct vip_key *key,
					 enum reason reason, __u32 vip_slot, __u32 err)
{
	struct event *e = event_new(EVENT_DENIED, bpf_ktime_get_ns());

	if (!e)
		return;
	event_caller(e, ctx);
	copy_addr(e->vip_addr, key->addr);
	e->vip_port = key->port;
	e->vip_slot = vip_slot;
	e->reason = reason;
	e->err = err;
	event_send(e);
}

/* What TCP says about a redirected socket. */
static __always_inline void event_tcp(struct bpf_sock_ops *ctx, const struct sock_info *s,
				      __u8 kind, __u64 now, __u64 since, __u32 err)
{
	struct event *e;

	/* The probe's: nobody reads it, and dropped it would be counted as somebody's. */
	if (!s->vip_slot)
		return;
	e = event_new(kind, now);
	if (!e)
		return;
	e->server_slot = s->server_slot;
	copy_addr(e->vip_addr, s->vip_addr);
	e->vip_port = s->vip_port;
	e->vip_slot = s->vip_slot;
	copy_addr(e->server_addr, s->server_addr);
	e->server_port = s->server_port;
	e->cgroup_id = s->cgroup_id;
	e->netns = s->netns;
	e->pid = s->pid;
	__builtin_memcpy(e->comm, s->comm, sizeof(e->comm));
	e->took = elapsed(since, now);
	e->err = err;
	e->rtt_us = ctx->srtt_us >> 3; /* TCP keeps it times eight */
	e->bytes_in = s->bytes_in;
	e->bytes_out = s->bytes_out;
	event_send(e);
}

#endif
