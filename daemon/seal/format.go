package seal

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A sealed file is magic, key id, nonce, ciphertext with its tag. What comes
// before the ciphertext, and the file's name, are authenticated with it: a file
// under another's name does not unseal.
const (
	magic     = "lictor-sealed-1\n"
	keyIDSize = 8
	nonceSize = 12 // GCM's own
	tagSize   = 16
	headSize  = len(magic) + keyIDSize + nonceSize
	maxFile   = headSize + MaxSecret + tagSize
)

func encode(k key, name string, secret []byte) []byte {
	out := make([]byte, headSize, headSize+len(secret)+tagSize)
	copy(out, magic)
	copy(out[len(magic):], k.id[:])
	nonce := out[len(magic)+keyIDSize : headSize]
	_, _ = rand.Read(nonce) // never fails: the process ends instead
	return k.aead.Seal(out, nonce, secret, associated(out[:headSize], name))
}

func decode(keys []key, name string, raw []byte) ([]byte, error) {
	if len(raw) < headSize+tagSize || len(raw) > maxFile || !bytes.HasPrefix(raw, []byte(magic)) {
		return nil, fmt.Errorf("%w: it has no valid beginning", ErrDamaged)
	}
	for _, k := range keys {
		if !bytes.Equal(k.id[:], raw[len(magic):len(magic)+keyIDSize]) {
			continue
		}
		secret, err := k.aead.Open(nil, raw[len(magic)+keyIDSize:headSize], raw[headSize:], associated(raw[:headSize], name))
		if err != nil {
			return nil, fmt.Errorf("%w: its checksum does not match", ErrDamaged)
		}
		return secret, nil
	}
	return nil, fmt.Errorf("%w: was the state directory copied from another machine, or its key file replaced?", ErrOtherKey)
}

func associated(head []byte, name string) []byte {
	return append(bytes.Clone(head), name...)
}

// readBounded reads a regular file, no symbolic link, of at most so many bytes
// and one more.
func readBounded(path string, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, int64(limit)+1))
}
