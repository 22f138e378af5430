// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The entry points. ../README.md says what each is for and who writes what.
 * Each hook returns at once for what is not a VIP's.
 */
#include "connect.h"
#include "tcp.h"

SEC("cgroup/connect4")
int lictor_connect4(struct bpf_sock_addr *ctx)
{
	struct vip_key key = { .addr = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 } };
	struct backend b = {};

	if (!in_pool4(key.addr[3]))
		return untouched(ctx, key.addr);
	if (denied_elsewhere())
		return ALLOW;
	key.port = ctx->user_port;
	key.proto = ctx->protocol;
	if (redirect(ctx, &key, &b) == DENY)
		return DENY;
	ctx->user_ip4 = b.addr[3];
	ctx->user_port = b.port;
	return ALLOW;
}

SEC("cgroup/connect6")
int lictor_connect6(struct bpf_sock_addr *ctx)
{
	struct vip_key key = { .addr = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
					 ctx->user_ip6[3] } };
	struct backend b = {};

	if (!in_pool(key.addr))
		return untouched(ctx, key.addr);
	if (denied_elsewhere())
		return ALLOW;
	key.port = ctx->user_port;
	key.proto = ctx->protocol;
	if (redirect(ctx, &key, &b) == DENY)
		return DENY;
	ctx->user_ip6[0] = b.addr[0];
	ctx->user_ip6[1] = b.addr[1];
	ctx->user_ip6[2] = b.addr[2];
	ctx->user_ip6[3] = b.addr[3];
	ctx->user_port = b.port;
	return ALLOW;
}

/* The VIP that the socket's peer stands for, or NULL when the peer is not that server. */
static __always_inline struct sock_info *peer_vip(struct bpf_sock_addr *ctx, const __be32 *peer)
{
	struct sock_info *s = bpf_sk_storage_get(&socks, ctx->sk, 0, 0);

	if (!s || s->phase == PHASE_NONE || !same_addr(s->server_addr, peer) ||
	    s->server_port != (__be16)ctx->user_port)
		return NULL;
	return s;
}

SEC("cgroup/getpeername4")
int lictor_getpeername4(struct bpf_sock_addr *ctx)
{
	__be32 peer[4] = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 };
	struct sock_info *s = peer_vip(ctx, peer);

	if (s) {
		ctx->user_ip4 = s->vip_addr[3];
		ctx->user_port = s->vip_port;
	}
	return ALLOW;
}

SEC("cgroup/getpeername6")
int lictor_getpeername6(struct bpf_sock_addr *ctx)
{
	__be32 peer[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };
	struct sock_info *s = peer_vip(ctx, peer);

	if (s) {
		ctx->user_ip6[0] = s->vip_addr[0];
		ctx->user_ip6[1] = s->vip_addr[1];
		ctx->user_ip6[2] = s->vip_addr[2];
		ctx->user_ip6[3] = s->vip_addr[3];
		ctx->user_port = s->vip_port;
	}
	return ALLOW;
}

/* A datagram to a multicast address would go out on the link: stop it here. */
SEC("cgroup/sendmsg4")
int lictor_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct vip_key key = { .addr = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 } };

	if (!in_pool4(key.addr[3]))
		return ALLOW;
	key.port = ctx->user_port;
	key.proto = ctx->protocol;
	return deny(ctx, &key, REASON_UDP_SEND, 0);
}

SEC("cgroup/sendmsg6")
int lictor_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct vip_key key = { .addr = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
					 ctx->user_ip6[3] } };

	if (!in_pool(key.addr))
		return ALLOW;
	key.port = ctx->user_port;
	key.proto = ctx->protocol;
	return deny(ctx, &key, REASON_UDP_SEND, 0);
}

SEC("sockops")
int lictor_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk;
	struct sock_info *s;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_STATE_CB &&
	    ctx->op != BPF_SOCK_OPS_RTT_CB)
		return ALLOW;
	sk = ctx->sk;
	if (!sk)
		return ALLOW;
	s = bpf_sk_storage_get(&socks, sk, 0, 0);
	if (!s)
		return ALLOW;
	if (ctx->op == BPF_SOCK_OPS_STATE_CB)
		tcp_state(ctx, s, sk);
	else if (ctx->op == BPF_SOCK_OPS_RTT_CB)
		tcp_rtt(ctx, s);
	else if (s->phase == PHASE_REDIRECTED)
		tcp_attempted(ctx, s);
	return ALLOW;
}

/* The local address of a socket. One of AF_INET6 carries v4-mapped ones as such. */
static __always_inline void local_addr(struct sock *sk, __be32 *addr)
{
	struct sock_common *c = &sk->__sk_common;

	if (c->skc_family != AF_INET6) {
		addr[2] = bpf_htonl(0xffff);
		addr[3] = c->skc_rcv_saddr;
		return;
	}
	if (!bpf_core_field_exists(c->skc_v6_rcv_saddr)) /* a kernel without IPv6 */
		return;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		addr[i] = c->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
}

/* One record for each socket with storage, of all namespaces. */
SEC("iter/bpf_sk_storage_map")
int lictor_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock_info *info = ctx->value;
	struct sock *sk = ctx->sk;
	struct sock_record r = {};

	if (!info || !sk || info->phase == PHASE_NONE)
		return 0;
	__builtin_memcpy(&r.info, info, sizeof(r.info));
	local_addr(sk, r.local_addr);
	r.local_port = bpf_htons(sk->__sk_common.skc_num);
	r.device = sk->__sk_common.skc_bound_dev_if;
	r.state = sk->__sk_common.skc_state;
	/* Non-zero asks the kernel to come back with a larger buffer. */
	return bpf_seq_write(ctx->meta->seq, &r, sizeof(r)) ? 1 : 0;
}

/* Types that Go needs and no map holds: named here, so that BTF keeps them. */
union exported {
	enum limit limit;
	enum layout layout;
	enum reason reason;
	enum owner_kind owner_kind;
	enum hold_reason hold_reason;
	enum phase phase;
	enum event_kind event_kind;
	struct event event;
	struct sock_record sock_record;
};
const union exported *const exported __attribute__((unused)) = NULL;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
