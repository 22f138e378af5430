package bed

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// Host is a machine as a lictord sees one: its cgroup stands for the root of
// the machine's hierarchy, and several live side by side. Below it are the
// pods' cgroups, in `pods`, and lictord's, in `system`.
type Host struct {
	*Node
	BPFFS string // directory for pins, the host's own

	mu     sync.Mutex
	pods   []*Pod
	bootID string // file; "" until the first reboot
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

// Reboot ends everything on the host, its lictord too, and takes away what a
// reboot does: pods with their namespaces and cgroups, pins, the host's own
// network namespace with its cookie, the boot id. Address and directory stay.
// Nothing else may be done with the host meanwhile.
func (h *Host) Reboot() error {
	if err := errors.Join(sandbox.RemoveCgroup(h.Cgroup), os.Mkdir(h.Cgroup, 0o755)); err != nil {
		return fmt.Errorf("reboot %s: %w", h.Name, err)
	}
	for _, p := range h.Pods() {
		if err := p.Remove(); err != nil {
			return fmt.Errorf("reboot %s: %w", h.Name, err)
		}
	}
	if err := errors.Join(os.RemoveAll(h.BPFFS), os.Mkdir(h.BPFFS, 0o700), h.renew()); err != nil {
		return fmt.Errorf("reboot %s: %w", h.Name, err)
	}
	path := filepath.Join(h.Dir, "boot_id")
	if err := os.WriteFile(path, []byte(uuid()+"\n"), 0o444); err != nil {
		return fmt.Errorf("reboot %s: %w", h.Name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bootID = path
	return nil
}

// bootFiles shows programs of the host the boot id of its last reboot.
func (h *Host) bootFiles() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bootID == "" {
		return nil
	}
	return map[string]string{"/proc/sys/kernel/random/boot_id": h.bootID}
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
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
