package seal

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CredentialName is the name under which systemd hands a key to the unit, by
// LoadCredentialEncrypted= or SetCredentialEncrypted=.
const CredentialName = "lictor-seal-key"

// keyFile is the key's file in the state directory.
const keyFile = "seal.key"

// keySize is that of the key file, in bytes, and the least of a credential.
const keySize = 32

// openKeys gives the key to seal with, first, and every other key that may have
// sealed what is there.
func openKeys(stateDir string, o Options, sealed bool) ([]key, error) {
	var keys []key
	if dir := cmp.Or(o.CredentialsDir, os.Getenv("CREDENTIALS_DIRECTORY")); dir != "" {
		path := filepath.Join(dir, CredentialName)
		secret, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("%w: read systemd's credential: %w", ErrKeyFile, err)
		case len(secret) < keySize:
			return nil, fmt.Errorf("%w: the credential %s has %d bytes, want %d random ones or more", ErrKeyFile, path, len(secret), keySize)
		default:
			// The credential is bound to the machine by systemd, where it is.
			k, err := derive(secret, "")
			if err != nil {
				return nil, err
			}
			keys = append(keys, k)
		}
	}
	path := filepath.Join(stateDir, keyFile)
	secret, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if len(keys) > 0 {
			return keys, nil
		}
		if sealed {
			return nil, fmt.Errorf("%w: %s is gone, but there are sealed files: restore it from a backup, or remove %s, "+
				"which loses static tokens and the means to log out (log in anew, give tokens again)",
				ErrKeyFile, path, filepath.Join(stateDir, sealedDir))
		}
		secret, err = makeKeyFile(stateDir)
	}
	if err != nil {
		return nil, err
	}
	k, err := derive(secret, cmp.Or(o.MachineID, machineID()))
	if err != nil {
		return nil, err
	}
	return append(keys, k), nil
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s may be read by others (mode %04o): chmod 600 it, and replace the tokens if somebody has read it",
			ErrKeyFile, path, info.Mode().Perm())
	}
	secret, err := readBounded(path, keySize)
	if err == nil && len(secret) != keySize {
		err = fmt.Errorf("%w: %s has not %d bytes: restore it from a backup, or remove it together with the directory %s",
			ErrKeyFile, path, keySize, sealedDir)
	}
	return secret, err
}

func makeKeyFile(stateDir string) ([]byte, error) {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails: the process ends instead
	if err := writeSynced(stateDir, keyFile, secret); err != nil {
		return nil, fmt.Errorf("make the key file: %w", err)
	}
	return secret, nil
}

// derive makes a key, and an id that says nothing about it.
func derive(secret []byte, salt string) (k key, err error) {
	material, err := hkdf.Key(sha256.New, secret, []byte(salt), "lictor seal v1 aes-256-gcm", 32+keyIDSize)
	if err != nil {
		return key{}, fmt.Errorf("derive the sealing key: %w", err)
	}
	block, err := aes.NewCipher(material[:32])
	if err != nil {
		return key{}, fmt.Errorf("derive the sealing key: %w", err)
	}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return key{}, fmt.Errorf("derive the sealing key: %w", err)
	}
	copy(k.id[:], material[32:])
	return k, nil
}

// machineID is "" where there is none, as in containers.
func machineID() string {
	b, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
