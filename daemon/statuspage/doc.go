// Package statuspage is the page at / of --http-addr: one look at this host's
// daemon, live, with nothing fetched from elsewhere.
//
// # What is shown, and to whom
//
// The address has no authentication. Whoever reaches it sees:
//
//   - names: of the host's node, of servers, and of proxies with their Consul
//     node, namespace and partition;
//   - addresses: of servers, and VIPs with their pools, which mean nothing
//     outside the host;
//   - lictord's version, and since when it runs;
//   - counts, times, states and reasons, each one of a fixed set of words.
//
// Nobody sees through it: process ids, users, paths of files, namespaces and
// cgroups, versions of servers, tokens or their accessors, settings of Envoys,
// or the text of an error, which may hold any of these. A problem is told by
// what it means; `lictor status`, on the host, tells the rest. So view.go names
// each thing that is shown: what the API learns to tell does not appear here by
// itself.
//
// Nothing can be changed through the page. A page that another site opens in
// the reader's browser cannot read it either: on a loopback address the daemon
// answers to no foreign host name (DNS rebinding), and no answer may be framed
// or read across origins.
//
// # How it lives
//
// The daemon renders the page whole; without JavaScript it stays so and is
// loaded again every ten seconds. With JavaScript it follows /page/events:
// server-sent events, each one JSON object (an update): first everything, then
// what has changed. A tick comes each second, so that a page knows within a few
// whether it still has contact. A reader who does not keep up is let go; its
// browser comes back by itself and is told everything again.
//
// Only while somebody watches is the daemon asked each second. Otherwise it
// only follows the journal and samples the servers' connections every five
// seconds, for the ten minutes that a new page shows.
package statuspage
