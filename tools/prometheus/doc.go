// Package prometheus holds Lictor's recording rules and alerts, and what tests
// need of a real Prometheus to show that they hold: its binaries, how it is
// started, what it is asked.
package prometheus
