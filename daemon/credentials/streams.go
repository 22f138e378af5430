package credentials

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lictor-mesh/lictor/kernel"
	"github.com/lictor-mesh/lictor/state"
)

// KernelStreams closes connections by the sockets that the kernel lists.
type KernelStreams struct {
	// Sockets lists the redirected sockets of the host.
	Sockets func() ([]kernel.Socket, error)
	// Destroy closes sockets, and says for each what went wrong.
	Destroy func([]kernel.Socket) []error
}

// Close closes what is established from the proxy's VIP; what still connects
// will ask with the new token anyway.
func (k KernelStreams) Close(p state.Proxy) error {
	sockets, err := k.Sockets()
	if err != nil {
		return fmt.Errorf("close streams of proxy %s: %w", p.ID, err)
	}
	sockets = slices.DeleteFunc(sockets, func(s kernel.Socket) bool { return s.VIPSlot != p.Index || !s.Established })
	if len(sockets) == 0 {
		return nil
	}
	errs := slices.DeleteFunc(k.Destroy(sockets), func(err error) bool { return errors.Is(err, kernel.ErrGone) })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close streams of proxy %s: %w", p.ID, err)
	}
	return nil
}
