package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

// killer is a process that traces lictord and kills it before its n-th step of a
// kind from now on: a system call by which it writes to its journal, syncs it,
// changes a map of the kernel's, or answers on a socket. The call is not made any
// more.
type killer struct {
	*bed.Process
	stdin, stdout *os.File
}

// steps is what a killer has seen: the calls, and whether it killed before the
// last of them.
type steps struct {
	Calls  []string
	Killed bool
}

// of counts the calls of a kind.
func (s steps) of(kind string) (n int) {
	for _, call := range s.Calls {
		if call == kind {
			n++
		}
	}
	return n
}

type killOrder struct {
	PID  int
	Kind string
	Step int
}

// killAt arms a killer for the running daemon's n-th step of a kind, counted from
// 1. With the kind "" it only watches.
func (w *world) killAt(kind string, n int) *killer {
	w.Helper()
	in, stdin, err := os.Pipe()
	w.must(err)
	stdout, out, err := os.Pipe()
	w.must(err)
	k := &killer{stdin: stdin, stdout: stdout}
	k.Process, err = w.host.Start(bed.Command{
		Name: "killer", Path: reexec.Path, Argv0: reexec.Argv0("killer"), Stdin: in, Stdout: out,
	})
	w.must(errors.Join(err, in.Close(), out.Close()))
	w.must(json.NewEncoder(stdin).Encode(killOrder{w.lictor.Process().PID(), kind, n}))
	armed := make([]byte, 1)
	w.must(stdout.SetReadDeadline(time.Now().Add(10 * time.Second)))
	if _, err := io.ReadFull(stdout, armed); err != nil {
		w.Fatalf("the killer is not armed: %v: %s", err, k.Tail(1000))
	}
	return k
}

// saw ends the killer and returns what it has seen.
func (k *killer) saw(w *world) (s steps) {
	w.Helper()
	w.must(k.stdin.Close())
	w.must(json.NewDecoder(k.stdout).Decode(&s))
	w.must(errors.Join(k.stdout.Close(), k.Wait(w.ctx)))
	return s
}

func init() { reexec.Handle("killer", killerMain) }

func killerMain() error {
	runtime.LockOSThread() // a tracer is a thread
	in := json.NewDecoder(os.Stdin)
	var order killOrder
	if err := in.Decode(&order); err != nil {
		return err
	}
	t := tracer{order: order}
	if err := t.seizeAll(); err != nil {
		return err
	}
	fmt.Print("+") // armed
	go func() {
		var more any
		_ = in.Decode(&more) // the end of the input: the word to end, which frees the traced
		t.mu.Lock()
		_ = json.NewEncoder(os.Stdout).Encode(t.seen)
		os.Exit(0)
	}()
	if err := t.trace(); err != nil {
		return err
	}
	select {} // the process is gone; the end of the input is to come
}

// tracer traces all threads of a process.
type tracer struct {
	order killOrder

	mu   sync.Mutex
	seen steps
}

const (
	optTraceSysgood = 1 // PTRACE_O_TRACESYSGOOD of linux/ptrace.h
	optTraceClone   = 8 // PTRACE_O_TRACECLONE
	syscallStop     = 0x80 | unix.SIGTRAP
	syscallEntry    = 1 // PTRACE_SYSCALL_INFO_ENTRY
)

// seizeAll seizes every thread, and those that they make meanwhile.
func (t *tracer) seizeAll() error {
	seized := map[int]bool{}
	for more := true; more; {
		more = false
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", t.order.PID))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				return err
			}
			if seized[tid] {
				continue
			}
			seized[tid], more = true, true
			_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, optTraceSysgood|optTraceClone, 0, 0)
			switch {
			case e == unix.ESRCH: // it has ended
			case e == unix.EPERM: // made by a thread that is seized, and so is this one
			case e != 0:
				return fmt.Errorf("seize thread %d: %w", tid, e)
			default:
				if err := unix.PtraceInterrupt(tid); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("interrupt thread %d: %w", tid, err)
				}
			}
		}
	}
	return nil
}

// trace lets the threads go on from stop to stop until all have ended.
func (t *tracer) trace() error {
	for {
		var st unix.WaitStatus
		tid, err := unix.Wait4(-1, &st, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("wait for the traced: %w", err)
		case !st.Stopped():
			continue
		}
		deliver := 0
		switch event := int(st) >> 16; {
		case st.StopSignal() == syscallStop:
			if err := t.count(tid); err != nil {
				return err
			}
		case event == 0: // a signal, such as those by which Go's scheduler preempts
			deliver = int(st.StopSignal())
		}
		if err := unix.PtraceSyscall(tid, deliver); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("let thread %d go on: %w", tid, err)
		}
	}
}

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h, of an entry.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	_    uint32
	_, _ uint64
	nr   uint64
	args [6]uint64
	_    uint64
}

// count counts a step that is about to be taken, and kills before the one that
// was ordered.
func (t *tracer) count(tid int) error {
	var info syscallInfo
	_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e == unix.ESRCH {
		return nil
	}
	if e != 0 {
		return fmt.Errorf("ask for the system call of thread %d: %w", tid, e)
	}
	step := t.step(info)
	if info.op != syscallEntry || step == "" {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen.Killed {
		return nil
	}
	t.seen.Calls = append(t.seen.Calls, step)
	if step == t.order.Kind && t.seen.of(step) == t.order.Step {
		t.seen.Killed = true
		return unix.Kill(t.order.PID, unix.SIGKILL)
	}
	return nil
}

// step names the call if it is one by which something changes outside of the
// process.
func (t *tracer) step(info syscallInfo) string {
	switch info.nr {
	case unix.SYS_PWRITE64:
		return "pwrite"
	case unix.SYS_FDATASYNC, unix.SYS_FSYNC:
		return "sync"
	case unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE:
		return "resize"
	case unix.SYS_BPF:
		switch info.args[0] {
		case unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_UPDATE_BATCH:
			return "map update"
		case unix.BPF_MAP_DELETE_ELEM, unix.BPF_MAP_DELETE_BATCH:
			return "map delete"
		}
	case unix.SYS_WRITE:
		to, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(t.order.PID), "fd", strconv.FormatUint(info.args[0], 10)))
		if err == nil && strings.HasPrefix(to, "socket:") {
			return "answer"
		}
	}
	return ""
}
