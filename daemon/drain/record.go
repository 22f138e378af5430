package drain

import "time"

// record is what was said and done about one server since it is to be left.
type record struct {
	id     string
	why    reason
	since  time.Time
	closed int    // by us
	kept   string // said last
	failed string // said once
}

// Why connections are kept. They follow "kept: ".
const (
	keptAlone  = "no other server can be used by their proxies"
	keptFull   = "the other servers have no room"
	keptOrphan = "their proxies are no longer registered"
)

// record begins and ends the records of servers, each with a line in the log, and
// says what keeps the rest where it is.
func (c *Closer) record(p plan, all servers, full bool) {
	kept := map[string]string{}
	for id, d := range p.servers {
		r := c.leaving[id]
		if r == nil || r.why != d.why {
			closed := 0
			if r != nil {
				closed = r.closed
			}
			r = &record{id: id, why: d.why, since: time.Now(), closed: closed}
			c.leaving[id] = r
			c.log.Info("closing connections to a server that is to be left", "server", id, "why", string(d.why), "connections", d.open)
		}
		text := r.keeps(d, full, c.tried)
		if text != "" {
			kept[id] = text
		}
		if text != "" && text != r.kept {
			c.log.Info("connections kept for now", "server", id, "connections", d.open, "why", text)
		}
		r.kept = text
	}
	for id, r := range c.leaving {
		if p.servers[id] != nil {
			continue
		}
		delete(c.leaving, id)
		if now := all.why(id); now == "" && r.why != moved {
			c.log.Info("no more connections closed: the server is in use again", "server", id, "closed", r.closed)
			continue
		}
		c.log.Info("no connection to the server is left", "server", id, "closed", r.closed, "took_ms", time.Since(r.since).Milliseconds())
	}
	c.mu.Lock()
	c.kept = kept
	c.mu.Unlock()
}

// keeps says why none of a server's connections is being closed, "" when some
// are.
func (r *record) keeps(d *departure, full bool, tried map[uint64]time.Duration) string {
	failed := 0
	for _, s := range d.ready {
		if _, later := tried[s.Cookie]; later {
			failed++
		}
	}
	switch {
	case failed < len(d.ready) && full && d.why != gone:
		return keptFull
	case failed < len(d.ready):
		return ""
	case failed > 0 && r.failed != "":
		return r.failed
	case failed > 0:
		return "" // gone, says the kernel
	case d.alone+d.orphan == 0:
		return "" // their VIPs are being written
	case d.alone >= d.orphan:
		return keptAlone
	default:
		return keptOrphan
	}
}
