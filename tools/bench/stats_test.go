package main

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		name string
		x    []float64
		want float64
	}{
		{"one", []float64{3}, 3},
		{"odd", []float64{9, 1, 5}, 5},
		{"even", []float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.x); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

// Of a hundred intervals about ninety-five hold the true median, also when what
// is measured has a long tail.
func TestBootstrapCovers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	const runs = 200
	held := 0
	for range runs {
		samples := make([]float64, 60)
		for i := range samples {
			samples[i] = math.Exp(rnd.NormFloat64()) // its median is 1
		}
		if e := bootstrap(samples); e.low <= 1 && 1 <= e.high {
			held++
		}
	}
	if held < runs*88/100 || held == runs {
		t.Errorf("%d intervals of %d hold the median, want about 95 %%", held, runs)
	}
}

// What is added to one of a pair is found, however much both vary together.
func TestDifferencesArePaired(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	var a, b []float64
	for range 500 {
		noise := 1000 * rnd.ExpFloat64()
		a, b = append(a, noise+rnd.Float64()), append(b, noise+7+rnd.Float64())
	}
	if e := bootstrap(differences(b, a)); e.low > 7 || e.high < 7 || e.high-e.low > 1 {
		t.Errorf("got %+v, want 7", e)
	}
	if e := bootstrap(ratios([]float64{2, 4, 6}, []float64{1, 2, 3})); e.at != 2 {
		t.Errorf("got %+v, want 2", e)
	}
}

func TestTable(t *testing.T) {
	r := &report{}
	r.add(
		row{what: "fast enough", unit: "ns", wanted: 300, got: estimate{250, 240, 260}},
		row{what: "perhaps", unit: "ns", wanted: 300, got: estimate{290, 240, 310}},
		row{what: "too slow", unit: "ms", wanted: 1, got: estimate{2, 1.5, 3}},
		row{what: "too few", unit: "/s", wanted: 500, least: true, got: estimate{400, 300, 450}},
		row{what: "enough", unit: "/s", wanted: 500, least: true, got: estimate{600, 550, 650}},
		row{what: "just told", unit: "MB", got: estimate{5, 5, 5}},
	)
	var out bytes.Buffer
	if err := r.table(&out); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"figure", "≤ 300 ns  250 ns    240 to 260     pass", "290 ns    240 to 310     pass (close)",
		"≤ 1.00 ms  2.00 ms   1.50 to 3.00   miss", "≥ 500 /s   400 /s    300 to 450     miss", "600 /s    550 to 650     pass", "5.00 MB",
	} {
		line := strings.Split(out.String(), "\n")[i]
		if !strings.Contains(strings.Join(strings.Fields(line), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("line %d is %q, want %q in it", i, line, want)
		}
	}
}
