/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What TCP says about redirected sockets. Each phase counts once per use of a socket. */
#ifndef LICTOR_TCP_H
#define LICTOR_TCP_H

#include "maps.h"
#include "events.h"
#include "hold.h"

#define PF_EXITING 0x4 /* linux/sched.h */

/*
 * A connect that its caller gave up after this long says something about the
 * server: its SYN went unanswered. Sooner, it says something about the caller.
 */
#define SLOW_CONNECT_NS (200 * NSEC_PER_MSEC)

/* Whether the socket's peer is the server it was redirected to. */
static __always_inline bool peer_is_server(struct bpf_sock_ops *ctx, const struct sock_info *s)
{
	/* remote_port holds 16 bits in network order, in the half that ntohl makes the lower one. */
	if (bpf_ntohl(ctx->remote_port) != bpf_ntohs(s->server_port))
		return false;
	if (ctx->family == AF_INET)
		return ctx->remote_ip4 == s->server_addr[3];
	return ctx->remote_ip6[0] == s->server_addr[0] && ctx->remote_ip6[1] == s->server_addr[1] &&
	       ctx->remote_ip6[2] == s->server_addr[2] && ctx->remote_ip6[3] == s->server_addr[3];
}

static __always_inline __u32 sock_error(const struct tcp_sock *tp)
{
	return tp ? tp->inet_conn.icsk_inet.sk.sk_err : 0;
}

/*
 * Whether the client itself ends the connection: by close, by connect with
 * AF_UNSPEC, by shutdown while it connects. Each holds the socket's lock, which
 * packets and timers wait for. sk_err alone does not tell: a client that asks for
 * SO_ERROR takes the error of a reset away, now and then before TCP changes the
 * state.
 */
static __always_inline bool client_ends(const struct tcp_sock *tp)
{
	return tp && tp->inet_conn.icsk_inet.sk.sk_lock.owned;
}

/* Whether the server's FIN has come: TCP notes it before it changes the state. */
static __always_inline bool fin_received(const struct tcp_sock *tp)
{
	int bit = bpf_core_enum_value(enum sock_flags, SOCK_DONE);

	return tp && (tp->inet_conn.icsk_inet.sk.__sk_common.skc_flags >> bit & 1);
}

/* Whether our FIN was sent and acknowledged, as the former state and sequence numbers tell. */
static __always_inline bool fin_acked(struct bpf_sock_ops *ctx)
{
	switch (ctx->args[0]) {
	case BPF_TCP_FIN_WAIT2:
		return true;
	case BPF_TCP_FIN_WAIT1:
	case BPF_TCP_LAST_ACK:
	case BPF_TCP_CLOSING:
		return ctx->snd_una == ctx->snd_nxt;
	}
	return false;
}

static __always_inline bool exiting(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, flags) & PF_EXITING;
}

static __always_inline void tcp_attempted(struct bpf_sock_ops *ctx, struct sock_info *s)
{
	struct vip_words *st = state_of(s->vip_slot);
	struct inflight_words *f = inflight_of(s->vip_slot);
	struct counters *srv = counters_of(s->server_slot);

	if (!peer_is_server(ctx, s)) {
		s->phase = PHASE_NONE;
		count(REASON_ELSEWHERE);
		return;
	}
	s->phase = PHASE_ATTEMPTED;
	COUNT(srv, st, attempted, 1);
	if (f && f->at == s->t_connect)
		f->at = 0;
	else /* A slow connect may have been taken for a local failure meanwhile. */
		release_at(s->vip_slot, s->t_connect);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The number of bits of n; 0 of 0. */
static __always_inline __u32 bits_of(__u64 n)
{
	__u32 bits = 0;

#pragma clang loop unroll(full)
	for (int half = 32; half; half /= 2) {
		if (n >> half) {
			n >>= half;
			bits += half;
		}
	}
	return bits + n;
}

static __always_inline void latency_add(__u32 slot, __u64 ns)
{
	struct latency *l = bpf_map_lookup_elem(&server_latency, &slot);
	__u32 i = bits_of(ns / 1000);

	if (!l)
		return;
	if (i >= LATENCY_BUCKETS)
		i = LATENCY_BUCKETS - 1;
	add(&l->buckets[i], 1);
	add(&l->sum, ns);
}

static __always_inline void tcp_established(struct bpf_sock_ops *ctx, struct sock_info *s,
					    __u64 now)
{
	struct vip_words *st = state_of(s->vip_slot);
	struct counters *srv = counters_of(s->server_slot);
	__u32 slot = s->server_slot;
	struct server_words *ss = bpf_map_lookup_elem(&server_state, &slot);

	s->phase = PHASE_ESTABLISHED;
	s->t_established = now;
	COUNT(srv, st, established, 1);
	latency_add(slot, elapsed(s->t_connect, now));
	/* It answers. Whether it serves is another question: a bounce stays held. */
	if (ss && ss->refused_at)
		ss->refused_at = 0;
	if (st && any_hold(st))
		release(s->vip_slot, slot, HOLD_FAILED);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
	event_tcp(ctx, s, EVENT_ESTABLISHED, now, s->t_connect, 0);
}

/* It serves: what it refused this VIP before is forgiven, and nobody waits for it. */
static __always_inline void tcp_served(struct sock_info *s, __u64 now)
{
	__u32 slot = s->server_slot;
	struct vip_words *st = state_of(s->vip_slot);
	struct server_words *ss = bpf_map_lookup_elem(&server_state, &slot);

	if (st) {
		if (any_hold(st))
			release(s->vip_slot, slot, HOLD_NONE);
		st->wait_ms = 0;
		st->wait_until = 0;
	}
	if (ss)
		ss->served_at = now;
}

/* At each measurement of a young connection's round trip, until it is served. */
static __always_inline void tcp_rtt(struct bpf_sock_ops *ctx, struct sock_info *s)
{
	bool served = s->phase == PHASE_ESTABLISHED && ctx->bytes_received >= bounce_bytes;

	if (!served && s->phase == PHASE_ESTABLISHED)
		return;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
	if (served)
		tcp_served(s, bpf_ktime_get_ns());
}

static __always_inline void tcp_failed(struct bpf_sock_ops *ctx, struct sock_info *s,
				       struct bpf_sock *sk, __u64 now)
{
	const struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u32 err = sock_error(tp);
	struct vip_words *st = state_of(s->vip_slot);
	struct counters *srv = counters_of(s->server_slot);
	__u32 slot = s->server_slot;
	struct server_words *ss = bpf_map_lookup_elem(&server_state, &slot);
	bool given_up = err ? err == ECONNABORTED : client_ends(tp);

	s->phase = PHASE_NONE;
	COUNT(srv, st, failed, 1);
	if (st &&
	    (!given_up || (!err && elapsed(s->t_connect, now) > SLOW_CONNECT_NS && !exiting())))
		hold_down(s->vip_slot, slot, now, HOLD_FAILED);
	if (ss && err == ECONNREFUSED)
		ss->refused_at = now;
	event_tcp(ctx, s, EVENT_FAILED, now, s->t_connect, err);
}

/*
 * Add the bytes since the last time. TCP counts a SYN that was acknowledged and
 * a FIN either way like a byte each.
 */
static __always_inline void tcp_bytes(struct bpf_sock_ops *ctx, struct sock_info *s,
				      const struct tcp_sock *tp, struct vip_words *st,
				      struct counters *srv)
{
	__u64 in = ctx->bytes_received, out = ctx->bytes_acked;

	if (in && fin_received(tp))
		in--;
	if (out)
		out--;
	if (out && fin_acked(ctx))
		out--;
	if (in > s->bytes_in) {
		COUNT(srv, st, bytes_in, in - s->bytes_in);
		s->bytes_in = in;
	}
	if (out > s->bytes_out) {
		COUNT(srv, st, bytes_out, out - s->bytes_out);
		s->bytes_out = out;
	}
}

/*
 * The first exit from ESTABLISHED. What it was, by the state that follows and
 * the socket's error (measured on Linux 6.18):
 *
 *   FIN_WAIT1, 0      the client closes; Envoy does when its stream was refused
 *   CLOSE_WAIT        the server closes
 *   CLOSE, ECONNRESET the server resets
 *   CLOSE, 0          the client aborts, with data unread or lingering off, or
 *                     disconnects; or it has just taken a reset's error away, see
 *                     client_ends()
 *   CLOSE, ECONNABORTED  we destroyed it
 *   CLOSE, other      nobody answered (ETIMEDOUT), or ICMP said why
 *
 * Of a server that is stopped, or dead above TCP, the kernel still takes connections
 * and what is sent on them. One that was asked and never said a word has failed,
 * however patient its client was.
 */
static __always_inline void tcp_closed(struct bpf_sock_ops *ctx, struct sock_info *s,
				       struct bpf_sock *sk, __u64 now, __u32 state)
{
	const struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u32 err = sock_error(tp);
	struct vip_words *st = state_of(s->vip_slot);
	struct counters *srv = counters_of(s->server_slot);
	bool young = elapsed(s->t_established, now) < bounce_window_ns;
	bool aborted = state == BPF_TCP_CLOSE && (err ? err == ECONNABORTED : client_ends(tp));
	bool lost = state == BPF_TCP_CLOSE && err && !aborted && err != ECONNRESET;
	bool ours, unheard, bounced;

	s->phase = state == BPF_TCP_CLOSE ? PHASE_NONE : PHASE_CLOSING;
	tcp_bytes(ctx, s, tp, st, srv);
	/* An end that the client chose says nothing about the server. */
	ours = aborted || (state == BPF_TCP_FIN_WAIT1 && exiting());
	unheard = s->bytes_out && !s->bytes_in;
	bounced = !ours && young && s->bytes_in < bounce_bytes;
	/* Closed before bounced: a reader never sees more bounces than ends. */
	COUNT(srv, st, closed, 1);
	if (bounced)
		COUNT(srv, st, bounced, 1);
	if (st) {
		if (lost || (unheard && !young && !ours)) {
			hold_down(s->vip_slot, s->server_slot, now, HOLD_FAILED);
		} else if (bounced) {
			hold_down(s->vip_slot, s->server_slot, now, HOLD_BOUNCED);
		} else if (!aborted && !unheard && (!young || s->bytes_in >= bounce_bytes)) {
			tcp_served(s, now);
		}
	}
	event_tcp(ctx, s, bounced ? EVENT_BOUNCED : EVENT_CLOSED, now, s->t_established, err);
}

static __always_inline void tcp_state(struct bpf_sock_ops *ctx, struct sock_info *s,
				      struct bpf_sock *sk)
{
	__u32 state = ctx->args[1];
	__u64 now = bpf_ktime_get_ns();

	switch (s->phase) {
	case PHASE_ATTEMPTED:
		if (state == BPF_TCP_ESTABLISHED)
			tcp_established(ctx, s, now);
		else if (state == BPF_TCP_CLOSE)
			tcp_failed(ctx, s, sk, now);
		return;
	case PHASE_ESTABLISHED:
		if (state != BPF_TCP_ESTABLISHED)
			tcp_closed(ctx, s, sk, now, state);
		return;
	case PHASE_CLOSING:
		if (state == BPF_TCP_CLOSE) {
			s->phase = PHASE_NONE;
			tcp_bytes(ctx, s, bpf_skc_to_tcp_sock(sk), state_of(s->vip_slot),
				  counters_of(s->server_slot));
		}
		return;
	}
}

#endif
