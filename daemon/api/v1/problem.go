package v1

// ProblemType is the type of a problem document: a URN that stays the same as
// long as the API's version does, for programs to test.
type ProblemType = string

// Types of problems, with the HTTP status that each comes with.
const (
	ProblemMalformed    ProblemType = "urn:lictor:problem:malformed"              // 400: not a request that this API understands
	ProblemForbidden    ProblemType = "urn:lictor:problem:forbidden"              // 403
	ProblemNotFound     ProblemType = "urn:lictor:problem:not-found"              // 404: no such proxy or server
	ProblemNoSuchCall   ProblemType = "urn:lictor:problem:no-such-call"           // 404: no such path in this API
	ProblemMethod       ProblemType = "urn:lictor:problem:method-not-allowed"     // 405
	ProblemConflict     ProblemType = "urn:lictor:problem:conflict"               // 409
	ProblemNotRetained  ProblemType = "urn:lictor:problem:not-retained"           // 410
	ProblemTooLarge     ProblemType = "urn:lictor:problem:too-large"              // 413
	ProblemMediaType    ProblemType = "urn:lictor:problem:unsupported-media-type" // 415
	ProblemInvalid      ProblemType = "urn:lictor:problem:invalid"                // 422: understood, and not possible
	ProblemTooMany      ProblemType = "urn:lictor:problem:too-many-connections"   // 429: from one network namespace
	ProblemTooOften     ProblemType = "urn:lictor:problem:too-often"              // 429: registrations of one network namespace; the detail says when to ask again
	ProblemInternal     ProblemType = "urn:lictor:problem:internal"               // 500: a fault of the daemon, logged there
	ProblemUnavailable  ProblemType = "urn:lictor:problem:unavailable"            // 503: nothing was changed, try again
	ProblemNotYet       ProblemType = "urn:lictor:problem:not-yet"                // 503: what it needs is not there yet, the detail says what; repeat the call
	ProblemTimeout      ProblemType = "urn:lictor:problem:timeout"                // 504: it may have been carried out or not; repeat the call
	ProblemVIPExhausted ProblemType = "urn:lictor:problem:vip-pool-exhausted"     // 507: of the host, or of what one network namespace may have
	// ProblemUnknown stands in the client for an answer without a document.
	ProblemUnknown ProblemType = "about:blank"
)

// ProblemContentType is the media type of a problem document.
const ProblemContentType = "application/problem+json"

// ProblemError is an error answer of the daemon. The client returns it by
// pointer, to be found by errors.As.
type ProblemError struct {
	Problem
}

// Error is the document's detail, a sentence for people.
func (e *ProblemError) Error() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Title
}
