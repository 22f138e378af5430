package state

import "unique"

// A host's proxies have most of their words in common: the node, the servers, the
// boot. What is decoded has memory of its own for each; thousands of copies of a
// boot id and of three names would be kept for as long as their proxies are.

// shared gives a string that is equal, and in memory once.
func shared[S ~string](s S) S {
	if s == "" {
		return s
	}
	return unique.Make(s).Value()
}

func shareAll(words []string) {
	for i, w := range words {
		words[i] = shared(w)
	}
}

func (o *Owner) share() {
	if o != nil {
		o.Kind, o.BootID = shared(o.Kind), shared(o.BootID)
	}
}

func (p *Process) share() {
	if p != nil {
		p.BootID = shared(p.BootID)
	}
}

func (r *Registration) share() {
	r.Node, r.Namespace, r.Partition = shared(r.Node), shared(r.Namespace), shared(r.Partition)
	r.Owner.share()
	r.Process.share()
}

func (p *Proxy) share() {
	p.Registration.share()
	shareAll(p.Ranked)
	p.Reason, p.CredentialState = shared(p.Reason), shared(p.CredentialState)
}

// sharer is a body that has such words.
type sharer interface{ share() }

func (b *ProxyRegistered) share() { b.Proxy.share() }

func (b *ProxyChanged) share() {
	b.Owner.share()
	b.Process.share()
}

func (b *Placed) share() {
	shareAll(b.Ranked)
	b.Reason = shared(b.Reason)
}
