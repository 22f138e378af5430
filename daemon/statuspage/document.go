package statuspage

import (
	"bytes"
	"context"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rows is how many proxies are shown at once: enough to look through, few
// enough for any browser. The script's pages are of the same size.
const rows = 100

// shown is what the document is made of.
type shown struct {
	update
	Query  string
	Found  int // proxies that match Query
	First  int // number of the first that is shown, from 1; 0 for none
	Last   int
	Before string // the query of the page before; "" on the first
	After  string
	Rows   []proxy
}

// document answers with the whole page as it is now.
func (p *Page) document(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*p.timing.patience)
	defer cancel()
	all, err := p.ask(ctx)
	if err != nil || all.Summary == nil {
		w.Header().Set("Retry-After", "2")
		http.Error(w, "lictord cannot tell its status now; its log says why", http.StatusServiceUnavailable)
		return
	}
	var body bytes.Buffer
	if err := p.web.document.Execute(&body, choose(all, r.URL.Query())); err != nil {
		p.log.Error("page cannot be rendered", "err", err)
		http.Error(w, "lictord cannot render its page; its log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(body.Bytes()) // a reader who has gone is no error of ours
}

// choose picks the proxies that a query asks for: those that contain the words
// of q, from number `from` on.
func choose(all update, query url.Values) shown {
	s := shown{update: all, Query: strings.TrimSpace(query.Get("q"))}
	slices.Reverse(s.News)
	words := strings.Fields(strings.ToLower(s.Query))
	var found []proxy
	for _, p := range all.Proxies {
		if matches(p, words) {
			found = append(found, p)
		}
	}
	s.Found = len(found)
	from, err := strconv.Atoi(query.Get("from"))
	if err != nil || from < 1 || from > len(found) {
		from = 1
	}
	last := min(from-1+rows, len(found))
	s.Rows = found[from-1 : last]
	if len(found) > 0 {
		s.First, s.Last = from, last
	}
	if from > 1 {
		s.Before = s.link(max(1, from-rows))
	}
	if last < len(found) {
		s.After = s.link(last + 1)
	}
	return s
}

func (s shown) link(from int) string {
	q := url.Values{"from": {strconv.Itoa(from)}}
	if s.Query != "" {
		q.Set("q", s.Query)
	}
	return "/?" + q.Encode() + "#proxies"
}

// matches says whether each word is somewhere in the row.
func matches(p proxy, words []string) bool {
	text := strings.ToLower(strings.Join([]string{p.ID, p.Where, p.VIP, p.Server, p.State, p.Why}, "\n"))
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// functions are those of the template.
var functions = template.FuncMap{
	"grouped": func(n any) string {
		switch n := n.(type) {
		case int:
			return grouped(uint64(n))
		case uint64:
			return grouped(n)
		}
		return ""
	},
	"machine": func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") },
	"clock":   func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC") },
	"mark":    mark,
	"line":    line,
	"trend":   trend,
	"most": func(servers []server) (most int) {
		for _, s := range servers {
			most = max(most, s.Proxies)
		}
		return most
	},
	"percent": func(n, of int) int {
		if of == 0 {
			return 0
		}
		return 100 * n / of
	},
}

// mark is a sign beside a word, for those who cannot tell colours apart.
func mark(l level) string {
	switch l {
	case ok:
		return "✓"
	case note:
		return "○"
	default:
		return "✕"
	}
}
