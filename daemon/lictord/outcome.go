package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"

	"github.com/lictor-mesh/lictor/daemon/config"
	"github.com/lictor-mesh/lictor/daemon/logs"
	"github.com/lictor-mesh/lictor/daemon/version"
)

// Exit statuses, the same as the CLI's.
const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
)

// usageError is an error in a flag, a variable or the config file.
type usageError struct{ error }

// Unwrap gives the error itself.
func (e usageError) Unwrap() error { return e.error }

// answer prints what was asked for in place of a run, or says that err is one of usage.
func answer(stdout io.Writer, err error) error {
	switch {
	case errors.Is(err, config.ErrHelp):
		_, err = io.WriteString(stdout, config.Usage())
	case errors.Is(err, config.ErrVersion):
		_, err = fmt.Fprintln(stdout, "lictord", version.String())
	default:
		return usageError{err}
	}
	return err
}

// status is the exit status for what run returned.
func status(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return statusDone
	case errors.As(err, &usage):
		return statusUsage
	}
	return statusFailed
}

// complaint is err for people, each line with the program's name. What was
// typed may be repeated in it, but must not reach a terminal as it is.
func complaint(err error) string {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, err.Error())
	return "lictord: " + strings.ReplaceAll(text, "\n", "\nlictord: ")
}

// newLogger makes the log. flush tells what repeats were left out, before the end.
func newLogger(w io.Writer, cfg config.Config) (_ *slog.Logger, flush func()) {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if cfg.LogJSON {
		handler = slog.NewJSONHandler(w, options)
	}
	limited := logs.Limit(handler, logs.Options{})
	return slog.New(limited), limited.Flush
}
