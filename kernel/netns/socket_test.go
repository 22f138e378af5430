package netns_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lictor-mesh/lictor/kernel/netns"
	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

// Sockets are the namespace's and the user's, and lead nowhere else.
func TestSockets(t *testing.T) {
	testenv.Privileged(t)
	testenv.NoLeaks(t)
	path := testenv.Netns(t).Path
	ns, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	const uid = 65532
	at := netip.MustParseAddrPort("127.0.0.1:20300")
	l, err := netns.Listen(ns, at, uid)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if owner := ownerOf(t, l.(*net.TCPListener)); owner != uid {
		t.Errorf("the listener belongs to uid %d", owner)
	}
	if _, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
		t.Error("it listens here")
	}
	c, err := netns.Dial(context.Background(), ns, at, uid)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if owner := ownerOf(t, c.(*net.TCPConn)); owner != uid {
		t.Errorf("the connection belongs to uid %d", owner)
	}
	// Threads are as they were.
	mine, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if owner := ownerOf(t, mine.(*net.TCPListener)); owner != 0 {
		t.Errorf("a socket made afterwards belongs to uid %d", owner)
	}

	id, err := netns.Of(ns)
	if want, serr := netns.Stat(path); err != nil || serr != nil || id != want {
		t.Errorf("%+v, %v, want %+v, %v", id, err, want, serr)
	}
	for name, test := range map[string]struct {
		try  func() error
		want error
	}{
		"a port for root":    {listen(ns, "127.0.0.1:80", uid), netns.ErrPrivilegedPort},
		"which root may":     {listen(ns, "127.0.0.1:80", 0), nil},
		"taken":              {listen(ns, at.String(), uid), unix.EADDRINUSE},
		"elsewhere's":        {listen(ns, "192.0.2.1:20300", uid), netns.ErrNotLocal},
		"to elsewhere":       {dial(ns, "192.0.2.1:20300"), netns.ErrNotLocal},
		"to elsewhere, IPv6": {dial(ns, "[2001:db8::1]:20300"), netns.ErrNotLocal},
		"to no address":      {dial(ns, "0.0.0.0:20300"), netns.ErrNotLocal},
		"to loopback, IPv6":  {dial(ns, "[::1]:20300"), unix.ECONNREFUSED},
		"mapped":             {dial(ns, "[::ffff:127.0.0.1]:20300"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.try(); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func listen(ns *os.File, at string, uid uint32) func() error {
	return func() error {
		l, err := netns.Listen(ns, netip.MustParseAddrPort(at), uid)
		if err != nil {
			return err
		}
		return l.Close()
	}
}

func dial(ns *os.File, to string) func() error {
	return func() error {
		c, err := netns.Dial(context.Background(), ns, netip.MustParseAddrPort(to), 0)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// ownerOf is whom the kernel says a socket belongs to.
func ownerOf(t *testing.T, s interface {
	File() (*os.File, error)
}) uint32 {
	t.Helper()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}
