// Package journal keeps the events of package state on disk, in a bbolt file:
// the only truth that a Lictor daemon has of its own.
//
// What Append returned is on the disk. What it did not return is there wholly or
// not at all. Everything that is read is covered by a checksum, and a journal
// that does not hold what was written is refused by Open, with the first
// sequence number that is in doubt; Recover writes what is left of it to a new
// file. The layout is described in ../README.md.
//
// One goroutine writes (Append, Snapshot), any number read meanwhile; more
// writers are safe and wait for each other. The daemon's writer batches its
// callers: one call of Append is one transaction, which costs two fdatasyncs
// however many events it holds.
package journal
