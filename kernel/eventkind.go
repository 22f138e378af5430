package kernel

var eventKinds = map[EventKind]string{
	EventEstablished: "established",
	EventFailed:      "failed",
	EventFailedLocal: "failed_local",
	EventClosed:      "closed",
	EventBounced:     "bounced",
	EventDenied:      "denied",
}

// String is the kind as metrics and the API spell it; "unknown" for one of a
// newer program.
func (k EventKind) String() string {
	if name, ok := eventKinds[k]; ok {
		return name
	}
	return "unknown"
}
