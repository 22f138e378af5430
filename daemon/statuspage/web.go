package statuspage

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"net/http"
	"path"
)

//go:embed web
var files embed.FS

// kinds are the types of files. What a host's /etc/mime.types says must not
// decide whether a script runs.
var kinds = map[string]string{
	".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
}

// web is the page's files. Their names hold a hash of all of them, so that a
// browser may keep them, and a page never has files of two versions.
type web struct {
	build    string
	assets   map[string][]byte
	document *template.Template
}

func loadWeb() web {
	w := web{assets: map[string][]byte{}}
	hash := sha256.New()
	entries, err := fs.ReadDir(files, "web")
	if err != nil {
		panic(err) // it is in the binary
	}
	for _, e := range entries {
		content, err := fs.ReadFile(files, "web/"+e.Name())
		if err != nil {
			panic(err)
		}
		hash.Write(content)
		if path.Ext(e.Name()) != ".html" {
			w.assets[e.Name()] = content
		}
	}
	w.build = hex.EncodeToString(hash.Sum(nil)[:6])
	w.document = template.Must(template.New("page.html").Funcs(functions).ParseFS(files, "web/page.html"))
	return w
}

// asset answers with a file of the page.
func (p *Page) asset(w http.ResponseWriter, r *http.Request) {
	content, there := p.web.assets[r.PathValue("file")]
	if !there || r.PathValue("build") != p.web.build {
		http.Error(w, "no such file; load the page again", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", kinds[path.Ext(r.PathValue("file"))])
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(content) // a reader who has gone is no error of ours
}
