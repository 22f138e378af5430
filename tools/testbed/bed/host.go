package bed

import (
	"fmt"
	"path"
	"slices"
	"sync"
)

// Host is a machine as a lictord sees one: its cgroup stands for the root of
// the machine's hierarchy, and several live side by side. What runs on it and
// is not a pod is in the cgroup `system` below that.
type Host struct {
	*Node
	BPFFS string // directory for pins, the host's own

	mu   sync.Mutex
	pods []*Pod
}

// Pod is a workload on a host: a network namespace wired to the same network,
// and a cgroup below the host's.
type Pod struct {
	*Node
	Host *Host
}

// NewHost makes a host.
func (b *Bed) NewHost(name string) (*Host, error) {
	n, err := b.newNode("host", name, "hosts", name)
	if err != nil {
		return nil, err
	}
	h := &Host{Node: n}
	if h.BPFFS, err = b.run.BPFFS(name); err != nil {
		return nil, err
	}
	if _, err := h.system("bed"); err != nil {
		return nil, err
	}
	return h, nil
}

// NewPod makes a pod on the host. Names are unique in the bed.
func (h *Host) NewPod(name string) (*Pod, error) {
	n, err := h.bed.newNode("pod", name, "hosts", h.Name, "pods", name)
	if err != nil {
		return nil, err
	}
	p := &Pod{Node: n, Host: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pods = append(h.pods, p)
	return p, nil
}

// Pods returns the host's pods in the order of their making.
func (h *Host) Pods() []*Pod {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pods)
}

// Remove kills what runs in the pod and takes it out of the bed.
func (p *Pod) Remove() error {
	p.Host.mu.Lock()
	p.Host.pods = slices.DeleteFunc(p.Host.pods, func(o *Pod) bool { return o == p })
	p.Host.mu.Unlock()
	return p.Node.Remove()
}

// system makes a cgroup for something of the host's own.
func (h *Host) system(name string) (string, error) {
	dir, err := h.bed.run.Cgroup(path.Join("hosts", h.Name, "system", name))
	if err != nil {
		return "", fmt.Errorf("make cgroup of %s: %w", name, err)
	}
	return dir, nil
}
