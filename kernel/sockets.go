package kernel

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf/link"
)

// tcpEstablished is TCP_ESTABLISHED of the kernel's net/tcp_states.h.
const tcpEstablished = 1

// Sockets lists the sockets of all network namespaces that were redirected and
// are not closed: connecting, established, closing. A slot of theirs must not
// be given to another proxy or server.
func (k *Kernel) Sockets() ([]Socket, error) {
	records, err := k.walk()
	if err != nil {
		return nil, fmt.Errorf("walk the sockets: %w", err)
	}
	sockets := make([]Socket, 0, len(records))
	for _, r := range records {
		if r.Info.VipSlot == 0 { // the probe's
			continue
		}
		sockets = append(sockets, Socket{
			VIP:         addrPortOf(r.Info.VipAddr, r.Info.VipPort),
			VIPSlot:     r.Info.VipSlot,
			Server:      addrPortOf(r.Info.ServerAddr, r.Info.ServerPort),
			Slot:        r.Info.ServerSlot,
			Local:       addrPortOf(r.LocalAddr, r.LocalPort),
			Device:      r.Device,
			Cookie:      r.Info.Cookie,
			Netns:       r.Info.Netns,
			PID:         r.Info.Pid,
			Established: r.State == tcpEstablished,
		})
	}
	return sockets, nil
}

func (k *Kernel) walk() (_ []lictorSockRecord, err error) {
	it, err := link.AttachIter(link.IterOptions{Program: k.objs.LictorSockets, Map: k.objs.Socks})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	rd, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	raw, err := io.ReadAll(rd)
	if err != nil {
		return nil, err
	}
	var r lictorSockRecord
	size := len(bytesOf(&r))
	if len(raw)%size != 0 {
		return nil, fmt.Errorf("%d bytes are no whole number of records of %d", len(raw), size)
	}
	records := make([]lictorSockRecord, 0, len(raw)/size)
	for ; len(raw) > 0; raw = raw[size:] {
		copy(bytesOf(&r), raw)
		records = append(records, r)
	}
	return records, nil
}

// Recount compares Active with a walk over the sockets and returns, by server
// slot, by how much the counters are too high; empty when they agree. What
// connected or closed during the walk is allowed for.
func (k *Kernel) Recount() (map[uint16]int64, error) {
	before, err := k.Servers()
	if err != nil {
		return nil, err
	}
	sockets, err := k.Sockets()
	if err != nil {
		return nil, err
	}
	after, err := k.Servers()
	if err != nil {
		return nil, err
	}
	walked := map[uint16]int64{}
	for _, s := range sockets {
		if s.Established {
			walked[s.Slot]++
		}
	}
	drift := map[uint16]int64{}
	for slot, a := range after {
		b := before[slot]
		// During the walk Active was never below lowest nor above highest.
		lowest := int64(b.Active()) - int64(a.Closed-b.Closed)
		highest := int64(b.Active()) + int64(a.Established-b.Established)
		switch n := walked[slot]; {
		case n < lowest:
			drift[slot] = lowest - n
		case n > highest:
			drift[slot] = highest - n
		}
	}
	for slot, n := range walked {
		if _, counted := after[slot]; !counted {
			drift[slot] = -n
		}
	}
	return drift, nil
}
