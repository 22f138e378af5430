//go:build pictures

package page

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lictor-mesh/lictor/tools/browser"
	"github.com/lictor-mesh/lictor/tools/testbed/binaries"
)

var (
	update  = flag.Bool("update", false, "take the README's pictures of the status page anew")
	minutes = flag.Float64("minutes", 8, "of what the pictures show")
)

// maxPicture is the size of a picture, so that the repository stays small.
const maxPicture = 150 << 10

// TestPictures takes the pictures of the README, and keeps them with -update. What
// they show has happened: a server was killed and came back, another was drained.
// It takes minutes, so it is behind a build tag: make pictures.
func TestPictures(t *testing.T) {
	all := time.Duration(*minutes * float64(time.Minute))
	w := newWorld(t, all+3*time.Minute)
	client := w.lictor.Client()
	defer client.Close()
	part := all / 8

	time.Sleep(2 * part)
	victim := w.victim()
	w.must(victim.Kill())
	w.must(w.fleet.WaitUp(w.ctx, proxies))
	time.Sleep(part)
	w.must(victim.Restart(w.ctx))
	w.must(w.cluster.WaitServers(w.ctx, 3))
	time.Sleep(3 * part)
	drained := w.victim()
	w.must(client.Drain(w.ctx, drained.Name))
	time.Sleep(part)
	w.must(client.Undrain(w.ctx, drained.Name))
	time.Sleep(part)

	dir := t.TempDir()
	if *update {
		root, err := binaries.Root()
		w.must(err)
		dir = filepath.Join(root, "tools", "docs", "pictures")
	}
	for _, picture := range []struct {
		name string
		view browser.View
	}{
		{"statuspage-light.png", browser.View{Width: 1200, Height: 860}},
		{"statuspage-dark.png", browser.View{Width: 1200, Height: 860, Dark: true}},
		{"statuspage-phone.png", browser.View{Width: 390, Height: 844, Scale: 1.5, Mobile: true}},
	} {
		p := w.open(picture.view)
		time.Sleep(2 * time.Second) // what has just appeared is marked for a moment
		png, err := p.Picture(w.ctx, false)
		w.must(err)
		if len(png) > maxPicture {
			t.Errorf("%s has %d bytes, more than %d", picture.name, len(png), maxPicture)
		}
		w.must(os.WriteFile(filepath.Join(dir, picture.name), png, 0o644))
		p.calm()
	}
}
