package statuspage

import (
	"fmt"
	"slices"
	"strings"
)

// A sparkline is drawn in a box of so many units; web/spark.js draws the same.
const (
	sparkWidth  = 120
	sparkHeight = 28
)

// line gives the points of a server's sparkline: what it had at each sample and
// has now, at the right edge.
func line(s server) string {
	values := append(slices.Clone(s.Past), s.Active)
	if len(values) == 1 {
		values = append(values, s.Active)
	}
	most := max(slices.Max(values), 1)
	step := float64(sparkWidth) / points
	var out strings.Builder
	for i, v := range values {
		x := sparkWidth - step*float64(len(values)-1-i)
		y := (sparkHeight - 4) * (1 - float64(v)/float64(most))
		fmt.Fprintf(&out, "%.4g,%.4g ", x, y+2)
	}
	return strings.TrimSpace(out.String())
}

// trend says a sparkline in words.
func trend(s server) string {
	low, high := s.Active, s.Active
	for _, v := range s.Past {
		low, high = min(low, v), max(high, v)
	}
	if low == high {
		return grouped(s.Active) + " now, the same in the last ten minutes"
	}
	return fmt.Sprintf("%s now, between %s and %s in the last ten minutes", grouped(s.Active), grouped(low), grouped(high))
}
