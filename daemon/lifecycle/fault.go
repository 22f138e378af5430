package lifecycle

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// spawn does something for the process in a goroutine of its own.
func (l *life) spawn(ctx context.Context, group *sync.WaitGroup, do func()) {
	group.Go(func() { l.persist(ctx, do) })
}

// persist does it again, in a while, when it panics. That is a problem of this
// proxy: it does not end the daemon, which serves all others, and which would meet
// what caused it again after each restart.
func (l *life) persist(ctx context.Context, do func()) {
	for l.faulty(do) && sleep(ctx, lookEvery) {
	}
}

func (l *life) faulty(do func()) (faulty bool) {
	defer func() {
		if fault := recover(); fault != nil {
			faulty = true
			l.log.Error("panic while looking after a process", "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
			l.problem("fault", "lictord hit a fault of its own in what it does for its process, which is in lictord's log with a stack; please report it")
		}
	}()
	do()
	return false
}
