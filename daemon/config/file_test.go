package config

import (
	"strings"
	"testing"
)

func TestDecodeFile(t *testing.T) {
	tests := map[string]struct {
		name, src string
		want      map[string]string
	}{
		"hcl": {"c.hcl", `
			# where Consul is
			consul_addresses = ["10.0.0.1", "10.0.0.2"]
			vip_port         = 8702
			tls_disabled     = true
			vip_cidr6        = ""
		`, map[string]string{"consul-addresses": "10.0.0.1,10.0.0.2", "vip-port": "8702", "tls-disabled": "true", "vip-cidr6": ""}},
		"json": {"c.json", `{
			"//": "where Consul is",
			"consul_addresses": ["10.0.0.1", "10.0.0.2"],
			"vip_port": 8702,
			"tls_disabled": true,
			"vip_cidr6": ""
		}`, map[string]string{"consul-addresses": "10.0.0.1,10.0.0.2", "vip-port": "8702", "tls-disabled": "true", "vip-cidr6": ""}},
		"empty hcl":       {"c.hcl", "", nil},
		"empty json":      {"c.json", "{}", nil},
		"dollar in json":  {"c.json", `{"consul_addresses": "exec=x ${Y}"}`, map[string]string{"consul-addresses": "exec=x ${Y}"}},
		"dollar in hcl":   {"c.hcl", `consul_addresses = "exec=x $${Y} $(z)"`, map[string]string{"consul-addresses": "exec=x ${Y} $(z)"}},
		"number as words": {"c.hcl", `vip_port = "8702"`, map[string]string{"vip-port": "8702"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := decodeFile(tt.name, []byte(tt.src))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			for k, v := range tt.want {
				if s, ok := got[k]; !ok || s.value != v {
					t.Errorf("%s: got %q, want %q", k, s.value, v)
				}
			}
		})
	}
}

// The line is the third in each of them.
func TestFileErrorsNameKeyAndLine(t *testing.T) {
	tests := map[string]struct {
		name, src string
		want      []string
	}{
		"unknown key":            {"c.hcl", "\n\nvip_prt = 1\n", []string{"c.hcl:3:", `"vip_prt"`, `"vip_port"`, "lictord --help"}},
		"unknown key, json":      {"c.json", "{\n\n\"vip_prt\": 1}", []string{"c.json:3:", `"vip_prt"`, `"vip_port"`, "lictord --help"}},
		"flag's own name, json":  {"c.json", "{\n\n\"vip-port\": 1}", []string{"c.json:3:", `"vip-port"`}},
		"file in a file":         {"c.hcl", "\n\nconfig_file = \"/x.hcl\"\n", []string{"c.hcl:3:", "config_file"}},
		"block":                  {"c.hcl", "\n\ntls {\n}\n", []string{"c.hcl:3:", "tls", "lictord --help"}},
		"twice":                  {"c.hcl", "vip_port = 1\n\nvip_port = 2\n", []string{"c.hcl:3:", "vip_port"}},
		"twice, json":            {"c.json", "{\"vip_port\": 1,\n\n\"vip_port\": 2}", []string{"c.json:3:", "vip_port"}},
		"no syntax":              {"c.hcl", "\n\nvip_port 1\n", []string{"c.hcl:3:"}},
		"no syntax, json":        {"c.json", "{\n\n\"vip_port\": }", []string{"c.json:3:"}},
		"a list":                 {"c.json", "[\n\n{\"vip_prt\": 1}]", []string{"c.json:3:", "vip_prt"}},
		"variable":               {"c.hcl", "\n\nvip_port = x\n", []string{"c.hcl:3:", "in quotes"}},
		"object":                 {"c.json", "{\n\n\"vip_port\": {}}", []string{"c.json:3: vip_port:", "plain value"}},
		"null":                   {"c.json", "{\n\n\"vip_port\": null}", []string{"c.json:3: vip_port:", "leave the key out"}},
		"list of lists":          {"c.json", "{\n\n\"consul_addresses\": [[]]}", []string{"c.json:3: consul_addresses:"}},
		"list for one value":     {"c.hcl", "\n\nvip_port = [1]\n", []string{"c.hcl:3: vip_port:", "plain value"}},
		"null in a list":         {"c.json", "{\n\n\"consul_addresses\": [null]}", []string{"c.json:3: consul_addresses: an element of the list has no value"}},
		"command in a list":      {"c.hcl", "\n\nconsul_addresses = [\"exec=a\", \"b\"]\n", []string{"c.hcl:3: consul_addresses:", "stands alone"}},
		"comma in a list":        {"c.hcl", "\n\nconsul_addresses = [\"a,b\"]\n", []string{"c.hcl:3:", "stands alone"}},
		"neither":                {"c.yaml", "vip_port: 1", []string{"c.yaml", ".hcl or .json"}},
		"too large":              {"c.hcl", strings.Repeat("\n", maxFile+1), []string{"larger than 64 kB"}},
		"two wrong keys at once": {"c.hcl", "a = 1\n\nb = 2\n", []string{"c.hcl:1:", "c.hcl:3:"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := decodeFile(tt.name, []byte(tt.src))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestBadValueInFileNamesTheLine(t *testing.T) {
	path := write(t, "c.hcl", "\nvip_port = 70000\n")
	_, err := Load([]string{required, "--config-file=" + path}, nil)
	if err == nil || !strings.Contains(err.Error(), path+`:2: vip_port: "70000" is not a port`) {
		t.Errorf("error %v", err)
	}
}

func FuzzDecodeFile(f *testing.F) {
	f.Add(true, "consul_addresses = [\"10.0.0.1\"]\nvip_port = 8702\n")
	f.Add(true, "vip_cidr = <<X\n${1 + 2}\nX\n")
	f.Add(true, "vip_port = [for x in [1]: x]\n")
	f.Add(false, `{"consul_addresses": ["10.0.0.1"], "vip_port": 8702, "//": 1}`)
	f.Add(false, `[{"vip_port": {"a": null}}]`)
	f.Fuzz(func(t *testing.T, native bool, src string) {
		name := "c.json"
		if native {
			name = "c.hcl"
		}
		settings, err := decodeFile(name, []byte(src))
		if err != nil {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error %q does not name the file", err)
			}
			return
		}
		// Whatever it says, the settings are judged without a panic, and what
		// is accepted keeps the promises of Config.
		c, err := build(settings)
		if err != nil {
			return
		}
		if c.VIPPort == 0 || c.NodeName == "" || !c.VIPCIDR.IsValid() && !c.VIPCIDR6.IsValid() {
			t.Errorf("accepted %+v", c)
		}
	})
}
