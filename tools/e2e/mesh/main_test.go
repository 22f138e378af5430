package mesh

import (
	"testing"

	"github.com/lictor-mesh/lictor/tools/e2e/beside"
)

// A login's token lives a minute at least, and its test waits for that.
func TestMain(m *testing.M) {
	beside.Main(m, beside.Options{First: []string{"TestMeshWithTLSAndACLs"}})
}
