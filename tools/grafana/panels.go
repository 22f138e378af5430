package grafana

// source is the data source that the reader has chosen.
var source = Source{Type: "prometheus", UID: "${datasource}"}

// query is what a panel asks.
type query struct {
	expr   string
	legend string
	labels []string // of the result; nil: none
}

func q(expr, legend string, labels ...string) query { return query{expr, legend, labels} }

// about is what every panel says of itself.
type about struct {
	title string // the question it answers
	do    string // what its values mean, and what to do when they look wrong
	unit  string
	// moves: one value at least is above 0 under load with failovers.
	moves bool
}

func (a about) panel(kind string, queries []query) Panel {
	p := Panel{
		Type: kind, Title: a.title, Description: a.do, Datasource: source, Moves: a.moves,
		FieldConfig: FieldConfig{Defaults: Field{Unit: a.unit, Mappings: []Mapping{}}, Overrides: []Override{}},
	}
	for i, one := range queries {
		p.Targets = append(p.Targets, Target{
			RefID: string(rune('A' + i)), Expr: one.expr, LegendFormat: one.legend, Range: true, Labels: one.labels,
		})
	}
	return p
}

type object = map[string]any

// timeseries draws lines over time.
func timeseries(a about, queries ...query) Panel {
	p := a.panel("timeseries", queries)
	p.FieldConfig.Defaults.Min = new(float64)
	p.FieldConfig.Defaults.Color = &Color{Mode: "palette-classic"}
	p.FieldConfig.Defaults.Custom = object{
		"drawStyle": "line", "lineInterpolation": "stepAfter", "lineWidth": 2, "fillOpacity": 8,
		"showPoints": "never", "spanNulls": false,
	}
	p.Options = object{
		"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	return p
}

// events draws how often something happened, which is never most of the time.
func events(a about, queries ...query) Panel {
	p := timeseries(a, queries...)
	p.FieldConfig.Defaults.Custom = object{
		"drawStyle": "bars", "lineWidth": 1, "fillOpacity": 80, "showPoints": "never", "spanNulls": false,
		"stacking": object{"mode": "normal", "group": "A"},
	}
	return p
}

// stacked draws parts of a whole.
func stacked(a about, queries ...query) Panel {
	p := timeseries(a, queries...)
	p.FieldConfig.Defaults.Custom = object{
		"drawStyle": "line", "lineInterpolation": "stepAfter", "lineWidth": 1, "fillOpacity": 35,
		"showPoints": "never", "spanNulls": false, "stacking": object{"mode": "normal", "group": "A"},
	}
	return p
}

// step is a limit from which on a value has a color.
type step struct {
	from  float64
	color string
}

// stat shows the last value. It has the first color, and that of each limit from
// there on.
func stat(a about, one query, color string, limits ...step) Panel {
	p := a.panel("stat", []query{one})
	d := &p.FieldConfig.Defaults
	d.Color = &Color{Mode: "thresholds"}
	if a.unit == number {
		d.Decimals = new(int) // an increase is extrapolated, and a count is whole
	}
	d.Thresholds = &Thresholds{Mode: "absolute", Steps: []Step{{Color: color}}}
	for _, l := range limits {
		d.Thresholds.Steps = append(d.Thresholds.Steps, Step{Color: l.color, Value: &l.from})
	}
	p.Options = object{
		"colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
		"textMode": "value", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
		"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	}
	return p
}

// yes shows a value that is 1 or 0 as words, the second of which is bad.
func yes(a about, one query, good, bad string) Panel {
	p := stat(a, one, "red", step{1, "green"})
	p.FieldConfig.Defaults.Mappings = truth(good, bad)
	p.Options.(object)["graphMode"] = "none"
	return p
}

func truth(good, bad string) []Mapping {
	return []Mapping{{Type: "value", Options: map[string]Word{
		"1": {Text: good, Color: "green", Index: 0}, "0": {Text: bad, Color: "red", Index: 1},
	}}}
}

// bars compares the last values.
func bars(a about, one query) Panel {
	p := a.panel("bargauge", []query{one})
	p.FieldConfig.Defaults.Min = new(float64)
	p.FieldConfig.Defaults.Color = &Color{Mode: "palette-classic"}
	p.Options = object{
		"displayMode": "gradient", "orientation": "horizontal", "valueMode": "color", "showUnfilled": true,
		"namePlacement": "auto", "sizing": "auto", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 300,
		"legend":        object{"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []string{}},
		"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
	}
	return p
}

// column is one value of each row of a table.
type column struct {
	name     string
	expr     string
	mappings []Mapping // nil: a number
}

// table has a row for each value of a label.
func table(a about, label, heading string, columns ...column) Panel {
	p := a.panel("table", nil)
	rename, order := object{label: heading}, object{label: 0}
	for i, c := range columns {
		id := string(rune('A' + i))
		p.Targets = append(p.Targets, Target{RefID: id, Expr: c.expr, Instant: true, Format: "table", Labels: []string{label}})
		rename["Value #"+id], order["Value #"+id] = c.name, i+1
		if c.mappings != nil {
			p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, Override{
				Matcher: Matcher{"byName", c.name},
				Properties: []Property{
					{"mappings", c.mappings},
					{"custom.cellOptions", object{"type": "color-text"}},
				},
			})
		}
	}
	p.FieldConfig.Defaults.Custom = object{"align": "left", "minWidth": 70, "cellOptions": object{"type": "auto"}, "inspect": false}
	p.Transformations = []Transformation{
		{"merge", object{}},
		{"organize", object{"excludeByName": object{"Time": true}, "indexByName": order, "renameByName": rename, "includeByName": object{}}},
	}
	p.Options = object{"showHeader": true, "cellHeight": "sm", "frameIndex": 0, "sortBy": []object{{"displayName": heading, "desc": false}}}
	return p
}

// row is panels beside each other, of one height; they share the width.
type row struct {
	height int
	panels []Panel
}

// lay gives panels their ids and places.
func lay(rows ...row) (all []Panel) {
	y := 0
	for _, r := range rows {
		for i, p := range r.panels {
			from, to := 24*i/len(r.panels), 24*(i+1)/len(r.panels)
			p.ID, p.GridPos = len(all)+1, GridPos{X: from, Y: y, W: to - from, H: r.height}
			all = append(all, p)
		}
		y += r.height
	}
	return all
}
