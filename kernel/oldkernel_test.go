package kernel

import (
	"errors"
	"net"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// netnsCookie is that of the rig's namespace. On 5.10 sockets do not tell, which
// is why Open refuses it, but hooks do: make kernels runs this package's tests
// there too, as no other kernel before 6.1 is to be had.
func (r *rig) netnsCookie() (cookie uint64) {
	r.t.Helper()
	cookie, err := r.ns.Cookie()
	if err == nil {
		return cookie
	}
	if !errors.Is(err, unix.ENOPROTOOPT) {
		r.t.Fatal(err)
	}
	m := must(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}))
	defer m.Close()
	prog := must(ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "cookie", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			asm.FnGetNetnsCookie.Call(), // of R1, the context
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.StoreImm(asm.RFP, -16, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -16),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.Mov.Imm(asm.R0, 1), asm.Return(),
		},
	}))
	defer prog.Close()
	l := must(link.AttachCgroup(link.CgroupOptions{Path: r.cfg.Cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: prog}))
	defer l.Close()
	err = r.ns.Do(func() error {
		conn, err := net.Dial("tcp4", "127.0.0.1:1")
		if err == nil {
			conn.Close()
		}
		return err
	})
	if !errors.Is(err, syscall.ECONNREFUSED) {
		r.t.Fatalf("connect to a closed port: %v", err)
	}
	if err := m.Lookup(uint32(0), &cookie); err != nil || cookie == 0 {
		r.t.Fatalf("cookie %d: %v", cookie, err)
	}
	return cookie
}
