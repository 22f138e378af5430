package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// estimate is a figure with the interval that holds it with 95 % confidence.
type estimate struct {
	at, low, high float64
}

// median is that of a list that it sorts; NaN of an empty one.
func median(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	slices.Sort(x)
	if n := len(x); n%2 == 0 {
		return (x[n/2-1] + x[n/2]) / 2
	}
	return x[len(x)/2]
}

// resamples is how often a bootstrap draws anew; its own error is then some
// hundredth of the interval.
const resamples = 1000

// bootstrap estimates the median of what samples stand for. Nothing is assumed
// of how they are spread: on a machine that others use too, far more to the
// right than to the left. The seed is fixed, so that the same samples give the
// same interval.
func bootstrap(samples []float64) estimate {
	rnd := rand.New(rand.NewPCG(1, 2))
	medians := make([]float64, resamples)
	drawn := make([]float64, len(samples))
	for i := range medians {
		for k := range drawn {
			drawn[k] = samples[rnd.IntN(len(samples))]
		}
		medians[i] = median(drawn)
	}
	slices.Sort(medians)
	return estimate{
		at:   median(slices.Clone(samples)),
		low:  medians[resamples*25/1000],
		high: medians[resamples*975/1000],
	}
}

// differences pairs samples that were taken side by side.
func differences(of, minus []float64) []float64 {
	d := make([]float64, min(len(of), len(minus)))
	for i := range d {
		d[i] = of[i] - minus[i]
	}
	return d
}

// ratios pairs samples that were taken side by side.
func ratios(of, by []float64) []float64 {
	r := make([]float64, min(len(of), len(by)))
	for i := range r {
		r[i] = of[i] / by[i]
	}
	return r
}
