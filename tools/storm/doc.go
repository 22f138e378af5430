// Package storm wears a lictord out, and says whether a promise was lost:
// clients register and deregister, a [Ledger] keeps what they were told, the
// daemon is killed at random points, and a [Judge] compares the ledger with the
// API, the journal and the kernel's map, each read by itself.
//
// Its test is the crash storm (`make storm N=…` for any number of rounds);
// tools/soak runs the same clients and the same judge for hours.
package storm
