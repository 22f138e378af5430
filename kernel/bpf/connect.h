/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What becomes of a connect. */
#ifndef LICTOR_CONNECT_H
#define LICTOR_CONNECT_H

#include "maps.h"
#include "events.h"
#include "owner.h"
#include "hold.h"

/* asm-generic/socket.h, linux/socket.h and linux/tcp.h */
#define SOL_SOCKET	 1
#define SO_KEEPALIVE	 9
#define SOL_TCP		 6
#define TCP_KEEPIDLE	 4
#define TCP_KEEPINTVL	 5
#define TCP_USER_TIMEOUT 18

/* Who calls connect: asked once, as each question is a call. */
struct caller {
	__u64 netns; /* cookie */
	__u64 task;  /* bpf_get_current_pid_tgid() */
};

/* How long TCP may say nothing about a redirect of another thread. */
#define INFLIGHT_NS (20 * NSEC_PER_MSEC)

enum verdict {
	DENY, /* what a cgroup hook returns */
	ALLOW,
};

static __always_inline bool in_pool4(__be32 addr)
{
	return pool4_used && (addr & pool4_mask) == pool4_net;
}

static __always_inline bool in_pool6(const __be32 *a)
{
	return pool6_used && (a[0] & pool6_mask[0]) == pool6_net[0] &&
	       (a[1] & pool6_mask[1]) == pool6_net[1] && (a[2] & pool6_mask[2]) == pool6_net[2] &&
	       (a[3] & pool6_mask[3]) == pool6_net[3];
}

static __always_inline bool is_mapped(const __be32 *a)
{
	return !a[0] && !a[1] && a[2] == bpf_htonl(0xffff);
}

static __always_inline bool in_pool(const __be32 *a)
{
	return is_mapped(a) ? in_pool4(a[3]) : in_pool6(a);
}

static __always_inline int deny(struct bpf_sock_addr *ctx, const struct vip_key *key,
				enum reason reason, __u32 vip_slot)
{
	bool eperm = reason == REASON_STRANGER || reason == REASON_OWNER_UNRESOLVED ||
		     reason == REASON_UDP_SEND;

	count(reason);
	/* EPERM is what the kernel makes of a bare denial, and all there is before 6.1. */
	if (!eperm && has_retval)
		bpf_set_retval(-ECONNREFUSED);
	else
		eperm = true;
	event_denied(ctx, key, reason, vip_slot, eperm ? EPERM : ECONNREFUSED);
	return DENY;
}

/*
 * A connect to an address outside the pools: never touched. But the socket may
 * have been a VIP's before; its storage must not speak for this connection. A
 * redirect that an outer or inner cgroup's hook of ours made a moment ago stays.
 */
static __always_inline int untouched(struct bpf_sock_addr *ctx, const __be32 *addr)
{
	struct sock_info *s;

	if (ctx->type != SOCK_STREAM)
		return ALLOW;
	s = bpf_sk_storage_get(&socks, ctx->sk, 0, 0);
	if (s && !(s->phase == PHASE_REDIRECTED && same_addr(s->server_addr, addr) &&
		   s->server_port == (__be16)ctx->user_port))
		s->phase = PHASE_NONE;
	return ALLOW;
}

/*
 * A connect can end after the hook and before TCP sends a SYN (no route, no
 * local port, V6ONLY), and no event tells. The redirect stays noted as in
 * flight until TCP takes it up: found there by the same thread, which cannot be
 * in two connects, or long after, it has failed.
 */
static __noinline void check_inflight(__u32 vip_slot, struct inflight_words *f, __u64 now)
{
	__u64 at = f->at;
	struct event *e;

	if (!at)
		return;
	if (f->task != bpf_get_current_pid_tgid() && at + INFLIGHT_NS > now)
		return;
	f->at = 0;
	hold_down(vip_slot, f->to.slot, at, HOLD_FAILED);

	e = event_new(EVENT_FAILED_LOCAL, now);
	if (!e)
		return;
	e->pid = f->task >> 32;
	e->cgroup_id = f->cgroup_id;
	e->netns = f->netns;
	__builtin_memcpy(e->comm, f->comm, sizeof(e->comm));
	copy_addr(e->vip_addr, f->vip.addr);
	e->vip_port = f->vip.port;
	e->vip_slot = vip_slot;
	e->server_slot = f->to.slot;
	copy_addr(e->server_addr, f->to.addr);
	e->server_port = f->to.port;
	event_send(e);
}

static __always_inline void note_inflight(struct inflight_words *f, const struct vip_key *key,
					  const struct backend *to, const struct caller *by,
					  const struct sock_info *s)
{
	if (!f)
		return;
	f->task = by->task;
	f->cgroup_id = s->cgroup_id;
	f->netns = s->netns;
	f->vip = *key;
	f->to = *to;
	__builtin_memcpy(f->comm, s->comm, sizeof(f->comm));
	f->at = s->t_connect;
}

static __always_inline int set_opt(struct bpf_sock_addr *ctx, int level, int opt, int value)
{
	return bpf_setsockopt(ctx, level, opt, &value, sizeof(value)) != 0;
}

/*
 * Whatever the client is, it notices a vanished server: by keepalive when the
 * connection is idle, by the user timeout with data in flight; where that is set
 * it also ends keepalive, and TCP_KEEPCNT means nothing. A failure is counted
 * once and changes nothing else.
 */
static __always_inline void set_timeouts(struct bpf_sock_addr *ctx)
{
	int failed = set_opt(ctx, SOL_SOCKET, SO_KEEPALIVE, 1);

	failed |= set_opt(ctx, SOL_TCP, TCP_KEEPIDLE, 2);
	failed |= set_opt(ctx, SOL_TCP, TCP_KEEPINTVL, 1);
	failed |= set_opt(ctx, SOL_TCP, TCP_USER_TIMEOUT, 3000); /* ms */
	if (failed)
		count(REASON_SOCKOPT);
}

/* Note the redirect on the socket, for sockops and getpeername. NULL: no memory. */
static __always_inline struct sock_info *track(struct bpf_sock_addr *ctx, const struct vip_key *key,
					       const struct vip *v, const struct caller *by,
					       const struct backend *b, __u64 now)
{
	struct sock_info *s = bpf_sk_storage_get(&socks, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!s)
		return NULL;
	s->version = SOCK_VERSION;
	s->server_slot = b->slot;
	s->server_port = b->port;
	copy_addr(s->server_addr, b->addr);
	copy_addr(s->vip_addr, key->addr);
	s->vip_port = key->port;
	s->vip_slot = v->slot;
	s->t_connect = now;
	s->t_established = 0;
	s->cgroup_id = bpf_get_current_cgroup_id();
	s->netns = by->netns;
	s->cookie = bpf_get_socket_cookie(ctx);
	s->pid = by->task >> 32;
	bpf_get_current_comm(s->comm, sizeof(s->comm));
	s->bytes_in = 0;
	s->bytes_out = 0;
	s->phase = PHASE_REDIRECTED;
	return s;
}

/* With TCP_FASTOPEN_CONNECT the SYN may wait for the first write, in any later call. */
static __always_inline bool syn_may_wait(struct bpf_sock_addr *ctx)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(ctx->sk);

	return tp && BPF_CORE_READ_BITFIELD(tp, fastopen_connect);
}

/* Decide about a connect to a pool's address; on ALLOW out is where it goes. */
static __always_inline int redirect(struct bpf_sock_addr *ctx, const struct vip_key *key,
				    struct backend *out)
{
	__u64 now = bpf_ktime_get_ns();
	struct inflight_words *f;
	struct vip_words *st;
	struct sock_info *s;
	struct caller by;
	struct counters *srv;
	enum reason reason;
	struct vip v;

	reason = vip_read(key, &v);
	if (reason != REASON_NONE)
		return deny(ctx, key, reason, 0);
	by.netns = bpf_get_netns_cookie(ctx);
	reason = owner_check(&v, by.netns);
	if (reason != REASON_NONE)
		return deny(ctx, key, reason, v.slot);
	if (!v.n)
		return deny(ctx, key, REASON_NO_SERVER, v.slot);
	st = state_of(v.slot);
	if (!st) /* a slot that does not exist: damaged, so closed */
		return deny(ctx, key, REASON_TORN, v.slot);

	f = inflight_of(v.slot);
	if (f && f->at)
		check_inflight(v.slot, f, now);
	if (choose(st, &v, now, out) && must_wait(st, &v, out->slot, now))
		return deny(ctx, key, REASON_WAITING, v.slot);

	st->last_slot = out->slot;
	st->last_at = now;
	by.task = bpf_get_current_pid_tgid();
	s = track(ctx, key, &v, &by, out, now);
	if (s) {
		srv = counters_of(out->slot);
		COUNT(srv, st, redirected, 1);
		if (!syn_may_wait(ctx))
			note_inflight(f, key, out, &by, s);
	} else {
		/* Fails open: without memory a proxy still gets its server. */
		count(REASON_UNTRACKED);
	}
	set_timeouts(ctx);
	return ALLOW;
}

/* A program that ran before ours denied the connect: it goes nowhere, so do not count it. */
static __always_inline bool denied_elsewhere(void)
{
	if (!has_retval || !bpf_get_retval())
		return false;
	count(REASON_FOREIGN);
	return true;
}

#endif
