package page

import (
	"testing"

	"github.com/lictor-mesh/lictor/tools/e2e/beside"
)

func TestMain(m *testing.M) { beside.Main(m, beside.Options{}) }
