// Command kernels runs the tests of package kernel, and a host with lictord on
// it, on kernels of Debian's releases: each is fetched, booted in QEMU with this
// machine's own files as its root, and judged by what its tests say.
//
// The processor is emulated, as KVM is not to be had everywhere: a kernel takes
// minutes. What the guest writes stays in its memory.
package main
