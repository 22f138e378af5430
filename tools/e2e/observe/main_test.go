package observe

import (
	"testing"

	"github.com/lictor-mesh/lictor/tools/e2e/beside"
)

// Most of the time is spent waiting for scrapes and for alerts to become due.
func TestMain(m *testing.M) {
	beside.Main(m, beside.Options{
		Alone: []string{"TestScrapeOfTenThousandProxies"}, // it measures time
	})
}
