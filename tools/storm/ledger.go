package storm

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
)

// Ledger is what callers were told: the promises, and the calls of which nobody
// knows whether they came into force. It is safe for concurrent use; the zero
// value is empty.
type Ledger struct {
	mu   sync.Mutex
	rows map[string]row
}

// row is one proxy's line. The zero value is a proxy that is not registered.
type row struct {
	held       bool // it was answered that the proxy is registered
	vip, vip6  string
	port       uint16
	registers  bool // a registration had no answer
	deregister bool // a deregistration had none
}

// Registered notes an answer. It is an error when the same registration was
// answered otherwise before.
func (l *Ledger) Registered(id string, r v1.Registered) error {
	return l.change(id, func(was row) (row, error) {
		now := row{held: true, vip: r.VIP, vip6: r.VIP6, port: r.Port}
		if was.held && !was.deregister && was.vip != now.vip {
			return now, fmt.Errorf("%s was promised %s and is now told %s", id, was.vip, now.vip)
		}
		return now, nil
	})
}

// Deregistered notes an answer.
func (l *Ledger) Deregistered(id string) {
	_ = l.change(id, func(row) (row, error) { return row{}, nil })
}

// Unanswered notes a call of which nobody knows what became of it.
func (l *Ledger) Unanswered(id string, registering bool) {
	_ = l.change(id, func(r row) (row, error) {
		if registering && (!r.held || r.deregister) {
			r.registers = true
		} else if !registering && (r.held || r.registers) {
			r.deregister = true
		}
		return r, nil
	})
}

// Holds says whether the proxy is registered, and whether that is certain.
func (l *Ledger) Holds(id string) (held, certain bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rows[id]
	return r.held, !r.registers && !r.deregister
}

// Len is the number of promises.
func (l *Ledger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.rows {
		if r.held {
			n++
		}
	}
	return n
}

func (l *Ledger) change(id string, to func(row) (row, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, err := to(l.rows[id])
	if l.rows == nil {
		l.rows = map[string]row{}
	}
	if now == (row{}) {
		delete(l.rows, id)
	} else {
		l.rows[id] = now
	}
	return err
}

// Settle compares the ledger with what the API lists, and returns every broken
// promise. What had no answer may be in force or not, and is what is listed from
// now on.
func (l *Ledger) Settle(listed []v1.Proxy) (broken []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have := make(map[string]v1.Proxy, len(listed))
	for _, p := range listed {
		have[p.ProxyID] = p
		if _, known := l.rows[p.ProxyID]; !known {
			broken = append(broken, fmt.Errorf("%s is listed with %s, and nobody registered it, or it was deregistered", p.ProxyID, p.VIP))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.rows)) {
		r := l.rows[id]
		p, is := have[id]
		switch {
		case !is && r.held && !r.deregister:
			broken = append(broken, fmt.Errorf("%s was promised %s and is not listed", id, r.vip))
		case is && r.held && !(r.deregister && r.registers) && (p.VIP != r.vip || p.VIP6 != r.vip6 || p.Port != r.port):
			broken = append(broken, fmt.Errorf("%s was promised %s, %q, port %d and has %s, %q, port %d",
				id, r.vip, r.vip6, r.port, p.VIP, p.VIP6, p.Port))
		}
		if is {
			l.rows[id] = row{held: true, vip: p.VIP, vip6: p.VIP6, port: p.Port}
		} else {
			delete(l.rows, id)
		}
	}
	return broken
}

// promised gives the VIPs that must be in force, by proxy, and of how many
// others it is not known.
func (l *Ledger) promised() (must map[string]string, doubtful int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	must = map[string]string{}
	for id, r := range l.rows {
		switch {
		case r.held && !r.deregister:
			must[id] = r.vip
		default:
			doubtful++
		}
	}
	return must, doubtful
}
