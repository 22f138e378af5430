package daemon

import (
	"cmp"
	"fmt"
	"slices"

	v1 "github.com/lictor-mesh/lictor/daemon/api/v1"
	"github.com/lictor-mesh/lictor/state"
)

// credentialStatus counts proxies by how their credentials stand and says one
// sentence for each kind of trouble, however many proxies have it.
func credentialStatus(st *v1.Status, s state.State) {
	st.Proxies.Credentials = map[v1.CredentialState]int{}
	trouble := map[state.CredentialState][]*state.Proxy{}
	for _, p := range s.Proxies {
		if p.CredentialState == "" {
			continue
		}
		st.Proxies.Credentials[p.CredentialState]++
		if p.CredentialState != state.CredentialOK {
			trouble[p.CredentialState] = append(trouble[p.CredentialState], p)
		}
	}
	for _, kind := range state.CredentialStates {
		if of := trouble[kind]; len(of) > 0 {
			st.Problems = append(st.Problems, troubleSentence(of))
		}
	}
}

// troubleSentence tells of proxies with the same trouble by the one that has had
// it for longest.
func troubleSentence(of []*state.Proxy) string {
	first := slices.MinFunc(of, func(a, b *state.Proxy) int {
		return cmp.Or(a.CredentialSince.Compare(b.CredentialSince), cmp.Compare(a.ID, b.ID))
	})
	text := fmt.Sprintf("Proxy %s gets no configuration from Consul (%s): %s", first.ID, first.CredentialState, first.CredentialProblem)
	switch more := len(of) - 1; more {
	case 0:
	case 1:
		text += "; one more proxy has the same trouble, see `lictor proxies`"
	default:
		text += fmt.Sprintf("; %d more proxies have the same trouble, see `lictor proxies`", more)
	}
	return text + "."
}
