// Package grafana makes Lictor's Grafana dashboards: typed Go here, JSON in
// dashboards/, which `go generate ./tools/grafana` writes and a test keeps fresh.
// Each panel asks a question, has a unit, and says what to do when it looks wrong.
package grafana

//go:generate go test -run ^TestFresh$ -update .

// All are the dashboards, by the name of their file without its extension.
func All() map[string]Dashboard {
	return map[string]Dashboard{"lictor-fleet": Fleet(), "lictor-host": Host()}
}

// SchemaVersion is that of the dashboards' JSON; Grafana migrates from there.
const SchemaVersion = 41

const tag = "lictor"

func dashboard(uid, title, description string, variables []Variable, panels []Panel) Dashboard {
	return Dashboard{
		UID: uid, Title: title, Description: description, Tags: []string{tag},
		SchemaVersion: SchemaVersion, Editable: true, GraphTooltip: 1, Refresh: "30s",
		Time: TimeRange{From: "now-1h", To: "now"},
		Templating: Templating{List: append([]Variable{
			{Name: "datasource", Label: "Prometheus", Type: "datasource", Query: "prometheus"},
			{
				Name: "job", Label: "Mesh", Type: "query", Datasource: &source, Query: "label_values(lictor_build_info, job)",
				Multi: true, IncludeAll: true, AllValue: ".+", Refresh: 2, Sort: 1,
			},
		}, variables...)},
		Links: []Link{{
			Title: "Lictor", Type: "dashboards", Tags: []string{tag}, IncludeVars: true, KeepTime: true, Icon: "external link",
		}},
		Panels: panels,
	}
}

// The units of Grafana that are used.
const (
	number    = "short"
	share     = "suffix:×"
	perSecond = "cps"
	seconds   = "s"
	duration  = "dtdurations"
	size      = "bytes"
	sizes     = "Bps"
	portion   = "percentunit"
	verdict   = "none"
)
