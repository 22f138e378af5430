/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the programs and the Go side share. bpf2go exports these types to Go;
 * nothing is mirrored by hand.
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Times are
 * nanoseconds on CLOCK_MONOTONIC. A map whose value grows gets the next number
 * in enum layout; the new members go to the end, so that a former value is a
 * prefix of the new one (vips excepted, which the daemon rewrites whole).
 */
#ifndef LICTOR_ABI_H
#define LICTOR_ABI_H

enum limit {
	MAX_RANKED = 8,
	MAX_VIPS = 65536,
	MAX_SERVERS = 1024,
	LATENCY_BUCKETS = 24,
	EVENT_VERSION = 1,
	SOCK_VERSION = 1,
};

/* Layout of each map; part of the name under which it is pinned. */
enum layout {
	LAYOUT_VIPS = 1,
	LAYOUT_VIP_STATE = 1,
	LAYOUT_INFLIGHT = 1,
	LAYOUT_SERVER_STATE = 1,
	LAYOUT_SERVER_COUNTERS = 1,
	LAYOUT_SERVER_LATENCY = 1,
	LAYOUT_REASONS = 1,
	LAYOUT_SOCKS = 1,
	LAYOUT_EVENTS = 1,
	LAYOUT_META = 1,
};

/* Index into the reasons map: what ended early, or went wrong, once each. */
enum reason {
	REASON_NONE,
	/* These deny, and are reported by EVENT_DENIED. */
	REASON_STRANGER,	 /* EPERM: the caller does not own the VIP */
	REASON_OWNER_UNRESOLVED, /* EPERM: nobody owns it until the daemon finds the owner */
	REASON_NO_ENTRY,	 /* ECONNREFUSED: a pool's address that is no VIP */
	REASON_NO_SERVER,	 /* ECONNREFUSED: a VIP without servers */
	REASON_WAITING,		 /* ECONNREFUSED: every server refused a moment ago */
	REASON_TORN,		 /* ECONNREFUSED: the entry could not be read whole */
	REASON_UDP_SEND,	 /* EPERM: a datagram to a pool's address */
	/* These do not. */
	REASON_FOREIGN,	     /* another program had denied the connect already */
	REASON_UNTRACKED,    /* redirected, but no memory to count it by server */
	REASON_SOCKOPT,	     /* keepalive or user timeout could not be set */
	REASON_ELSEWHERE,    /* another program changed the address after us */
	REASON_RING_DROPPED, /* the event ring was full */
	REASON_MAX,
};

enum owner_kind {
	OWNER_UNRESOLVED, /* denies everybody */
	OWNER_NETNS,	  /* owner_id is a network namespace cookie */
	OWNER_CGROUP,	  /* owner_id is the id of the caller's ancestor at owner_level */
	OWNER_ANY,
};

enum hold_reason {
	HOLD_NONE,
	HOLD_FAILED,
	HOLD_BOUNCED,
};

enum phase {
	PHASE_NONE,	  /* the socket is not, or no more, a VIP's */
	PHASE_REDIRECTED, /* the connect was given the server's address */
	PHASE_ATTEMPTED,  /* TCP sends a SYN */
	PHASE_ESTABLISHED,
	PHASE_CLOSING, /* counted as closed; bytes may follow */
};

enum event_kind {
	EVENT_NONE,
	EVENT_ESTABLISHED,
	EVENT_FAILED,
	EVENT_FAILED_LOCAL,
	EVENT_CLOSED,
	EVENT_BOUNCED,
	EVENT_DENIED,
};

struct vip_key {
	__be32 addr[4];
	__be16 port;
	__u16 proto; /* IPPROTO_*, host order */
};
_Static_assert(sizeof(struct vip_key) == 20, "vip_key");

struct backend {
	__be32 addr[4];
	__be16 port;
	__u16 slot; /* of the server */
};
_Static_assert(sizeof(struct backend) == 20, "backend");

/*
 * An entry of vips, written whole by the daemon. Memory of a hash element is
 * used again at once for other keys, so a reader believes a copy only when both
 * generations, the key and the sum are right.
 */
struct vip {
	__u32 gen; /* never the same twice in a row */
	struct vip_key key;
	__u32 slot; /* index into vip_state */
	__u32 set;  /* identifies the set of servers */
	__u64 owner_id;
	__u32 owner_level;
	__u8 owner_kind; /* enum owner_kind */
	__u8 n;		 /* used of ranked */
	__u16 pad;
	struct backend ranked[MAX_RANKED]; /* best first */
	__u32 sum;			   /* of the 64-bit words before it, see vip_sum() */
	__u32 gen_last;
};
_Static_assert(sizeof(struct vip) == 216, "vip");
_Static_assert(__builtin_offsetof(struct vip, sum) == 26 * 8, "vip.sum");

struct hold {
	__u64 at;    /* ns; 0: unused */
	__u16 slot;  /* of the server */
	__u8 reason; /* enum hold_reason */
	__u8 pad[5];
};
_Static_assert(sizeof(struct hold) == 16, "hold");

struct counters {
	__u64 redirected;
	__u64 attempted;
	__u64 established;
	__u64 failed;
	__u64 closed;
	__u64 bounced;
	__u64 bytes_in;
	__u64 bytes_out;
};
_Static_assert(sizeof(struct counters) == 64, "counters");

/* What the kernel alone writes about a VIP. */
struct vip_words {
	struct hold holds[MAX_RANKED];
	__u64 wait_until; /* ns; connects are refused until then */
	__u32 wait_ms;	  /* length of that wait before jitter */
	__u32 wait_set;	  /* vip.set under which it began */
	__u64 trouble_at; /* ns; when every server was first held down, or the set changed since */
	__u64 last_at;	  /* ns; of the last redirect */
	__u16 last_slot;  /* server of it */
	__u16 pad[3];
	struct counters count;
};
_Static_assert(sizeof(struct vip_words) == 232, "vip_words");

/*
 * A redirect of a VIP of which TCP has said nothing yet. In a map of its own
 * whose layout never changes: during an upgrade one version's connect sets the
 * word and another version's sockops clears it.
 */
struct inflight_words {
	__u64 at;	 /* ns; 0: none */
	__u64 task;	 /* bpf_get_current_pid_tgid() of it */
	__u64 cgroup_id; /* likewise */
	__u64 netns;	 /* cookie */
	struct vip_key vip;
	struct backend to;
	char comm[16];
};
_Static_assert(sizeof(struct inflight_words) == 88, "inflight_words");

struct server_words {
	__u64 refused_at; /* ns; last reset in answer to a SYN, 0 once one is answered */
	__u64 served_at;  /* ns; when a new connection had last received enough to be no refusal */
	__u64 probed_at;  /* ns; last connect of a VIP that holds down all its servers */
};
_Static_assert(sizeof(struct server_words) == 24, "server_words");

struct latency {
	__u64 buckets[LATENCY_BUCKETS]; /* [i]: shorter than 1 << i us */
	__u64 sum;			/* ns */
};
_Static_assert(sizeof(struct latency) == 200, "latency");

/* Storage of a socket. Members are appended, out of spare, and never moved. */
struct sock_info {
	__u16 version; /* SOCK_VERSION of the program that filled it */
	__u8 phase;    /* enum phase */
	__u8 pad;
	__u16 server_slot;
	__be16 server_port;
	__be32 server_addr[4];
	__be32 vip_addr[4];
	__be16 vip_port;
	__u16 pad2;
	__u32 vip_slot;
	__u64 t_connect;     /* ns */
	__u64 t_established; /* ns */
	__u64 cgroup_id;     /* this and what follows: as of the connect */
	__u64 netns;	     /* cookie */
	__u64 cookie;	     /* of the socket */
	__u32 pid;	     /* tgid */
	char comm[16];
	__u32 pad3;
	__u64 bytes_in; /* added to the counters so far */
	__u64 bytes_out;
	__u8 spare[64];
};
_Static_assert(sizeof(struct sock_info) == 192, "sock_info");

struct event {
	__u16 version; /* EVENT_VERSION */
	__u16 size;    /* bytes */
	__u8 kind;     /* enum event_kind */
	__u8 reason;   /* enum reason, of EVENT_DENIED */
	__u16 server_slot;
	__u64 at; /* ns */
	__be32 vip_addr[4];
	__be32 server_addr[4];
	__be16 vip_port;
	__be16 server_port;
	__u32 vip_slot;
	__u64 cgroup_id;
	__u64 netns; /* cookie */
	__u64 took;  /* ns */
	__u64 bytes_in;
	__u64 bytes_out;
	__u32 pid; /* tgid */
	__u32 err; /* errno, positive */
	__u32 rtt_us;
	__u32 pad;
	char comm[16];
};
_Static_assert(sizeof(struct event) == 128, "event");

struct meta_words {
	__u8 journal[16]; /* uuid */
	__u64 last_promise;
};
_Static_assert(sizeof(struct meta_words) == 24, "meta_words");

/* A record of the socket walk. The local side is what sock_diag finds a socket by. */
struct sock_record {
	struct sock_info info;
	__be32 local_addr[4];
	__be16 local_port;
	__u8 state; /* TCP_* of the socket */
	__u8 pad;
	__u32 device; /* index of the one that the socket is bound to, or 0 */
};
_Static_assert(sizeof(struct sock_record) == 216, "sock_record");

#endif
