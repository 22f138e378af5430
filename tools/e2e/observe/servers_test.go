package observe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/testbed/bed"
	"github.com/lictor-mesh/lictor/tools/testbed/reexec"
)

const streams = 24 // enough that one more or less is not uneven

// Alerts about servers fire when their fault happens to real ones, and end.
func TestAlertsOfServersFireAndEnd(t *testing.T) {
	w := newWorld(t, 4*time.Minute).withConsul(3)
	w.start()
	rollout := w.streams(streams)
	w.watch(w.fastRules())
	w.quiet()

	// Servers end what speaks no HTTP/2 at once: for the kernel that is a refusal.
	stop := w.babble(w.registerAll(names("babbler", 12), "host-1"))
	w.fires("LictorProxiesWaiting", 30*time.Second)
	w.fires("LictorServerRefusing", 30*time.Second)
	stop()
	w.ends("LictorServerRefusing", 20*time.Second)
	w.ends("LictorProxiesWaiting", 20*time.Second)

	// One that comes back has nothing, as live streams are left where they are.
	victim := w.victim()
	w.must(victim.Kill())
	w.eventually(20*time.Second, func() error {
		return w.is(fmt.Sprintf(`sum(lictor_server_connections_active{server!=%q})`, victim.Name), streams)
	})
	w.must(victim.Restart(w.ctx))
	w.must(w.cluster.WaitServers(w.ctx, 3))
	w.fires("LictorUnevenLoad", 30*time.Second)
	rollout() // who comes anew goes where there is least
	w.ends("LictorUnevenLoad", 20*time.Second)

	// Where all are drained nobody has room.
	for _, s := range w.cluster.Servers() {
		w.must(w.api.Drain(w.ctx, s.Name))
	}
	w.fires("LictorDrainStuck", 30*time.Second)
	for _, s := range w.cluster.Servers() {
		w.must(w.api.Undrain(w.ctx, s.Name))
	}
	w.ends("LictorDrainStuck", 15*time.Second)
}

// victim is a server that does not lead and has connections.
func (w *world) victim() *bed.Server {
	w.Helper()
	var leader *bed.Server
	w.eventually(15*time.Second, func() (err error) { // a busy machine may be between two
		leader, err = w.cluster.Leader(w.ctx)
		return err
	})
	list, err := w.api.Servers(w.ctx)
	w.must(err)
	for _, s := range w.cluster.Servers() {
		for _, known := range list {
			if s != leader && known.ID == s.Name && known.Active > 0 {
				return s
			}
		}
	}
	w.Fatalf("no server but the leader has connections: %+v", list)
	return nil
}

// babble lets somebody connect to VIPs again and again who says nothing sensible.
func (w *world) babble(vips []netip.AddrPort) (stop func()) {
	w.Helper()
	text, err := json.Marshal(vips)
	w.must(err)
	p, err := w.host.Start(bed.Command{
		Name: "babbler", Path: reexec.Path, Argv0: reexec.Argv0("babbler"), Stdin: bytes.NewReader(text),
	})
	w.must(err)
	return func() { w.must(p.Kill()) }
}

func init() { reexec.Handle("babbler", babblerMain) }

// babblerMain goes on until it is killed.
func babblerMain() error {
	var vips []netip.AddrPort
	if err := json.NewDecoder(os.Stdin).Decode(&vips); err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, vip := range vips {
		all.Go(func() {
			for ; ; time.Sleep(200 * time.Millisecond) {
				conn, err := net.DialTimeout("tcp", vip.String(), time.Second)
				if err != nil {
					continue // refused on the host, which is what is wanted
				}
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_, _ = conn.Write([]byte("babble babble babble babble\r\n\r\n"))
				_, _ = io.Copy(io.Discard, conn) // until the server ends it
				_ = conn.Close()
			}
		})
	}
	all.Wait()
	return nil
}
