// Package bed builds a mesh on one machine: real Consul servers, hosts on which
// a lictord can run, pods with Envoys or other programs; each in a network
// namespace and a cgroup of its own, joined by a router that can be told to
// drop what goes to or from any of them.
//
//	b := bed.ForTest(t)
//	cluster, err := b.StartCluster(ctx, bed.ClusterOptions{Servers: 3})
//	host, err := b.NewHost("host-1")
//	pod, err := host.NewPod("web-1")
//	proxy, err := cluster.Register(ctx, bed.Service{Name: "web", Pod: pod, Port: 8080})
//	envoy, err := pod.StartEnvoy(ctx, bed.EnvoyOptions{Bootstrap: doc})
//	err = envoy.WaitUp(ctx)
//	err = cluster.Server(0).Kill()
//
// Everything is gone after Close, and also when the process is killed.
package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lictor-mesh/lictor/tools/testbed/sandbox"
)

// Bed is a mesh under one run. Its methods may be called concurrently.
type Bed struct {
	run      *sandbox.Run
	net      *network
	progress io.Writer

	mu        sync.Mutex
	nodes     []*Node
	processes []*Process
	closed    bool
}

// Options of a bed. The zero value is a good one.
type Options struct {
	// Progress is told what takes long, in lines; nil is nobody.
	Progress io.Writer
}

// Open removes what dead runs left behind and makes an empty bed, to be closed
// by the caller. It needs root.
func Open(o Options) (_ *Bed, err error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	run, err := sandbox.Open()
	if err != nil {
		return nil, err
	}
	b := &Bed{run: run, progress: o.Progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := run.Lifeline(); err != nil {
		return nil, err
	}
	hub, err := run.Netns("hub")
	if err != nil {
		return nil, err
	}
	if b.net, err = newNetwork(hub); err != nil {
		return nil, err
	}
	return b, nil
}

// Close ends every process and removes every namespace, cgroup, pin and file of
// the bed. Closing twice is success.
func (b *Bed) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	processes := slices.Clone(b.processes)
	b.mu.Unlock()

	var errs []error
	if b.net != nil {
		b.net.close()
	}
	// The cgroup's end is the processes' end; after it each can be reaped.
	errs = append(errs, b.run.Close())
	for _, p := range processes {
		<-p.done
	}
	return errors.Join(errs...)
}

// ID names the bed's run, as `testbed status` shows it.
func (b *Bed) ID() string { return b.run.ID() }

// Nodes returns servers, hosts and pods in the order of their making.
func (b *Bed) Nodes() []*Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.nodes)
}

// Node returns the node of that name, or nil.
func (b *Bed) Node(name string) *Node {
	for _, n := range b.Nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Description is what a bed says about itself to other processes.
type Description struct {
	Nodes []NodeDescription `json:"nodes"`
}

// NodeDescription is enough to start a process where the node is.
type NodeDescription struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Addr   string `json:"addr"`
	Netns  string `json:"netns"`
	Cgroup string `json:"cgroup"`
	Dir    string `json:"dir"`
}

// Describe writes the description where [ReadDescription] finds it.
func (b *Bed) Describe() error {
	var d Description
	for _, n := range b.Nodes() {
		d.Nodes = append(d.Nodes, NodeDescription{
			Name: n.Name, Kind: n.Kind, Addr: n.Addr().String(), Netns: n.Netns.Path, Cgroup: n.Cgroup, Dir: n.Dir,
		})
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	path := descriptionPath(b.ID())
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("describe bed: %w", err)
	}
	return os.Rename(path+".new", path)
}

// ReadDescription returns what the bed of that run last said about itself.
func ReadDescription(id string) (d Description, err error) {
	text, err := os.ReadFile(descriptionPath(id))
	if err != nil {
		return d, fmt.Errorf("read description of bed %s: %w", id, err)
	}
	return d, json.Unmarshal(text, &d)
}

func descriptionPath(id string) string {
	return filepath.Join(sandbox.Registry, id, "bed.json")
}

// register makes a process known to Close.
func (b *Bed) register(p *Process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.processes = append(b.processes, p)
}

// forget makes Close and Logs pass over a process that has ended.
func (b *Bed) forget(p *Process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.processes = slices.DeleteFunc(b.processes, func(o *Process) bool { return o == p })
}

// until calls try until it succeeds, a process has ended that try needs, or the
// context ends, and then says what failed last.
func until(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		var dead *EndedError
		if err == nil || errors.As(err, &dead) {
			return err
		}
		if !pause(ctx) {
			return fmt.Errorf("wait until %s: %w; last: %w", what, context.Cause(ctx), err)
		}
	}
}
