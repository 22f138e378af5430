// Package server is lictord's API on its unix socket, and the read-only pages
// on --http-addr.
//
// # Who may do what
//
// Everybody on the host, and in each pod that the socket is mounted into, may
// connect: the socket's mode is 0666. What a caller may do follows from what
// the kernel says of the other end of the connection (never from what the
// request says): its user, as the daemon's user namespace sees it
// (SO_PEERCRED), and the network namespace that its socket was made in
// (SO_NETNS_COOKIE, SIOCGSKNS).
//
//	                                     root   others
//	register for its own namespace       yes    yes
//	register for another owner           yes    no
//	deregister, read, history, bootstrap yes    what their own namespace owns
//	list proxies                         all    what their own namespace owns
//	list servers, status                 yes    yes
//	drain, undrain                       yes    no
//	journal, connections                 yes    no
//
// A namespace is the unit because the data path knows no smaller one: a VIP is
// open to every process of the namespace that owns it. The users of a host's
// own namespace, or of a pod, trust each other accordingly. Root is uid 0 in
// the daemon's user namespace: a container that runs as the host's root is
// root here too once the socket is mounted into it.
//
// # What a client cannot do
//
// Each step of a request has a time limit, each size a bound, and the number
// of connections one in all (more wait in the socket's backlog), of which a
// quarter is for root alone, and one for each network namespace of callers that
// are not root (more are answered 429). So are, by package registry, the proxies
// of such a namespace (507) and how often it may change them (429).
// A stream's reader that is too slow loses events, counted, or its connection;
// the daemon never waits for it.
package server
