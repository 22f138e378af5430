package assign

// The hash decides placements which are journaled, and which all hosts must
// spread alike. It is written out here because it must never change, as
// hash/maphash does from process to process.

// Constants of 64-bit FNV-1a, from the Fowler-Noll-Vo specification.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// hash is FNV-1a of s, started from seed and mixed, for FNV alone hardly
// changes the high bits between names which differ in their last letter.
func hash(seed uint64, s string) uint64 {
	h := seed ^ fnvOffset
	for i := range len(s) {
		h ^= uint64(s[i])
		h *= fnvPrime
	}
	return mix(h)
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// score says how much a proxy wants a server; it depends on nothing else.
func score(proxy, server uint64) uint64 {
	return mix(proxy ^ mix(server))
}
