/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The maps, the constants set at load, and counting. */
#ifndef LICTOR_MAPS_H
#define LICTOR_MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>
#include "abi.h"

/* linux/socket.h, linux/net.h, linux/in.h and asm-generic/errno.h */
#define AF_INET	      2
#define AF_INET6      10
#define SOCK_STREAM   1
#define EPERM	      1
#define ECONNABORTED  103
#define ECONNRESET    104
#define ECONNREFUSED  111
#define NSEC_PER_MSEC 1000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_VIPS); /* IPv4 and IPv6 */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct vip_key);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, struct vip_words);
} vip_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, struct inflight_words);
} inflight SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVERS);
	__type(key, __u32);
	__type(value, struct server_words);
} server_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVERS);
	__type(key, __u32);
	__type(value, struct counters);
} server_counters SEC(".maps");

/* Not per CPU: 200 bytes for each of 1,024 servers, touched once a connection. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVERS);
	__type(key, __u32);
	__type(value, struct latency);
} server_latency SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64); /* room for reasons to come */
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_info);
} socks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 << 20);
} events SEC(".maps");

/* Read and written by the daemon only; here so that it is pinned with the rest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meta_words);
} meta SEC(".maps");

/* The pools: an address is in one when (addr & mask) == net and it is used. */
const volatile __u8 pool4_used;
const volatile __be32 pool4_net;
const volatile __be32 pool4_mask;
const volatile __u8 pool6_used;
const volatile __be32 pool6_net[4];
const volatile __be32 pool6_mask[4];

const volatile __u8 has_retval; /* bpf_set_retval works in connect hooks (6.1) */

const volatile __u64 hold_failed_ns;
const volatile __u64 hold_bounced_ns;
const volatile __u64 hold_refused_ns;
const volatile __u64 bounce_window_ns;
const volatile __u32 bounce_bytes;
const volatile __u32 wait_min_ms = 1;
const volatile __u32 wait_max_ms = 1;
const volatile __u64 eager_ns;
const volatile __u32 wake_bytes = 4096; /* a power of two */

/*
 * Adds are atomic also on per-CPU words: programs are preemptible and sockops
 * runs in softirqs that interrupt a connect, so that a plain increment is lost
 * now and then. None of them needs the former value, which arm64 could only
 * give from 5.18 on.
 */
static __always_inline void add(__u64 *word, __u64 n)
{
	__sync_fetch_and_add(word, n);
}

/*
 * Time between two moments that different CPUs may have taken: the clock is
 * quick and not quite the same everywhere, so that the later can be the lesser.
 */
static __always_inline __u64 elapsed(__u64 from, __u64 to)
{
	return to > from ? to - from : 0;
}

static __always_inline void count(enum reason reason)
{
	__u32 i = reason;
	__u64 *n = bpf_map_lookup_elem(&reasons, &i);

	if (n)
		add(n, 1);
}

static __always_inline struct counters *counters_of(__u32 server_slot)
{
	return bpf_map_lookup_elem(&server_counters, &server_slot);
}

static __always_inline struct vip_words *state_of(__u32 vip_slot)
{
	return bpf_map_lookup_elem(&vip_state, &vip_slot);
}

static __always_inline struct inflight_words *inflight_of(__u32 vip_slot)
{
	return bpf_map_lookup_elem(&inflight, &vip_slot);
}

/* Add to a counter of the server and to the VIP's own. */
#define COUNT(srv, st, field, n)                                                                   \
	do {                                                                                       \
		if (srv)                                                                           \
			add(&(srv)->field, (n));                                                   \
		if (st)                                                                            \
			add(&(st)->count.field, (n));                                              \
	} while (0)

static __always_inline bool same_addr(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline void copy_addr(__be32 *to, const __be32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

#endif
