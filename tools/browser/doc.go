// Package browser drives a headless Chromium for tests and pictures: it loads
// pages, evaluates scripts, presses keys and takes pictures, through the DevTools
// protocol over a pipe. It is small on purpose: what a test needs beyond it is
// one Call of the protocol away.
//
// The browser is Debian's, or the one that CHROMIUM names; it is not fetched.
// It has a profile of its own, makes no requests of its own, and is gone, with
// its children, when the Browser is closed or the process that started it ends.
package browser
