package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// sockBytes is as much as kernel/bpf/abi.h keeps of a socket.
const sockBytes = 192

// attachFloor attaches a connect hook to a cgroup that does to each socket what
// Lictor cannot do without, and nothing else: the kernel makes its storage and
// sets its timeouts. It stays until remove.
func attachFloor(cgroup string) (remove func() error, err error) {
	storage, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "bench_socks", Type: ebpf.SkStorage, Flags: unix.BPF_F_NO_PREALLOC,
		KeySize: 4, Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		ValueSize: sockBytes, Value: &btf.Array{
			Index: &btf.Int{Name: "index", Size: 4}, Type: &btf.Int{Name: "byte", Size: 1}, Nelems: sockBytes,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make a map of socket storage: %w", err)
	}
	defer storage.Close() // the program holds it
	const (
		offsetOfSk = 64 // in struct bpf_sock_addr
		create     = 1  // BPF_SK_STORAGE_GET_F_CREATE
	)
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapPtr(asm.R1, storage.FD()),
		asm.LoadMem(asm.R2, asm.R6, offsetOfSk, asm.DWord),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, create),
		asm.FnSkStorageGet.Call(),
	}
	for _, o := range []struct{ level, name, value int32 }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_TCP, unix.TCP_KEEPIDLE, 2},
		{unix.SOL_TCP, unix.TCP_KEEPINTVL, 1},
		{unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 3000},
	} {
		code = append(code,
			asm.StoreImm(asm.RFP, -4, int64(o.value), asm.Word),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, o.level),
			asm.Mov.Imm(asm.R3, o.name),
			asm.Mov.Reg(asm.R4, asm.RFP),
			asm.Add.Imm(asm.R4, -4),
			asm.Mov.Imm(asm.R5, 4),
			asm.FnSetsockopt.Call(),
		)
	}
	code = append(code, asm.Mov.Imm(asm.R0, 1), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_floor", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, Instructions: code, License: "GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load the floor's program: %w", err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach the floor's program: %w", err), prog.Close())
	}
	return func() error { return errors.Join(l.Close(), prog.Close()) }, nil
}
