package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/lictor-mesh/lictor/daemon/config"
	"github.com/lictor-mesh/lictor/daemon/logs"
)

func TestAnswersWithoutRunning(t *testing.T) {
	tests := map[string]struct {
		args, vars []string
		status     int
		stdout     string // begins with
		complaint  string // contains
	}{
		"help":          {[]string{"--help"}, nil, 0, "lictord gives every Envoy", ""},
		"version":       {[]string{"--version"}, nil, 0, "lictord ", ""},
		"nothing":       {nil, nil, 2, "", "lictord: --consul-addresses is not set"},
		"unknown flag":  {[]string{"--x"}, nil, 2, "", "--x"},
		"bad variable":  {nil, []string{"LICTOR_X=1"}, 2, "", "LICTOR_X"},
		"several wrong": {[]string{"--vip-port=x", "--http-addr=y"}, nil, 2, "", "\nlictord: --http-addr"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := run(context.Background(), environment{tt.vars, &stdout, &stderr}, tt.args)
			if got := status(err); got != tt.status {
				t.Errorf("status %d, want %d (%v)", got, tt.status, err)
			}
			if !strings.HasPrefix(stdout.String(), tt.stdout) || tt.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout %q", stdout.String())
			}
			if tt.complaint != "" && !strings.Contains(complaint(err), tt.complaint) {
				t.Errorf("complaint %q does not say %q", complaint(err), tt.complaint)
			}
			if stderr.Len() > 0 {
				t.Errorf("logged %q", stderr.String())
			}
		})
	}
}

func TestAFailedRunIsNotWrongUsage(t *testing.T) {
	if got := status(fmt.Errorf("open journal: %w", errors.New("disk is full"))); got != statusFailed {
		t.Errorf("status %d", got)
	}
}

func TestLogger(t *testing.T) {
	tests := map[string]struct {
		cfg  config.Config
		want string // prefix of what two records leave
	}{
		"text":         {config.Config{LogLevel: slog.LevelWarn}, "time="},
		"json":         {config.Config{LogLevel: slog.LevelWarn, LogJSON: true}, `{"time":`},
		"below level":  {config.Config{LogLevel: slog.LevelError}, ""},
		"level counts": {config.Config{LogLevel: slog.LevelError, LogJSON: true}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			logger, flush := newLogger(&b, tt.cfg)
			logger.Warn("x")
			if !strings.HasPrefix(b.String(), tt.want) || tt.want == "" && b.Len() > 0 {
				t.Errorf("logged %q", b.String())
			}
			for range 100 {
				logger.Warn("y")
			}
			flush()
			if lines := strings.Count(b.String(), "\n"); tt.want != "" && (lines > 10 || !strings.Contains(b.String(), logs.LeftOut)) {
				t.Errorf("a hundred repeats are %d lines: %s", lines, b.String())
			}
		})
	}
}
