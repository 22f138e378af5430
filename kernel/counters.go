package kernel

import (
	"fmt"
	"time"
)

// Servers returns the counters of every server slot that has any, summed over
// CPUs and over maps of former layouts. Each number is exact; taken while
// connections come and go, they are not of one instant.
func (k *Kernel) Servers() (map[uint16]Counters, error) {
	sums := map[uint16]Counters{}
	for _, m := range k.withFormer(lictorMapServerCounters) {
		values, err := readArray[lictorCounters](m)
		if err != nil {
			return nil, fmt.Errorf("read server counters: %w", err)
		}
		cpus := len(values) / int(m.MaxEntries())
		for i, v := range values {
			slot := uint16(i / cpus)
			if v == (lictorCounters{}) || slot == 0 { // 0 is the probe's
				continue
			}
			c := sums[slot]
			c.add(countersOf(v))
			sums[slot] = c
		}
	}
	return sums, nil
}

// Latency returns how long established connects took, by server slot.
func (k *Kernel) Latency() (map[uint16]Histogram, error) {
	sums := map[uint16]Histogram{}
	for _, m := range k.withFormer(lictorMapServerLatency) {
		values, err := readArray[lictorLatency](m)
		if err != nil {
			return nil, fmt.Errorf("read connect latencies: %w", err)
		}
		for slot, v := range values {
			if v == (lictorLatency{}) || slot == 0 {
				continue
			}
			h := sums[uint16(slot)]
			for i, n := range v.Buckets {
				h.Buckets[i] += n
			}
			h.Sum += time.Duration(v.Sum)
			sums[uint16(slot)] = h
		}
	}
	return sums, nil
}

// Reasons returns what the kernel counted by reason, zeros included.
func (k *Kernel) Reasons() (map[Reason]uint64, error) {
	sums := make(map[Reason]uint64, len(reasonNames))
	for r := ReasonNone + 1; int(r) < len(reasonNames); r++ {
		sums[r] = 0
	}
	for _, m := range k.withFormer(lictorMapReasons) {
		values, err := readArray[uint64](m)
		if err != nil {
			return nil, fmt.Errorf("read reasons: %w", err)
		}
		cpus := len(values) / int(m.MaxEntries())
		for i, n := range values {
			if r := Reason(i / cpus); n != 0 {
				sums[r] += n
			}
		}
	}
	return sums, nil
}
