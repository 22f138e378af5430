package grafana

// here selects the chosen host.
const here = `job=~"$job", instance=~"$instance"`

// Host is the dashboard of one host.
func Host() Dashboard {
	return dashboard("lictor-host", "Lictor: a host",
		"What the hook, the journal and Consul of one host are like, and what its proxies do.",
		[]Variable{{
			Name: "instance", Label: "Host", Type: "query", Datasource: &source,
			Query: `label_values(lictor_build_info{job=~"$job"}, instance)`, Refresh: 2, Sort: 1,
		}},
		lay(
			row{4, hostNow()},
			row{9, hostServers()},
			row{8, hostConnects()},
			row{8, hostProxies()},
			row{8, hostJournal()},
			row{8, hostDaemon()},
		))
}

func hostNow() []Panel {
	return []Panel{
		yes(about{
			title: "Is the hook in effect?", unit: verdict, moves: true,
			do: "Whether a connect to a VIP is redirected, tried every three seconds. NO: new connects to VIPs fail at once; restart lictord, runbook LictorHookNotInEffect.",
		}, q(`min(lictor_hook_in_effect{`+here+`})`, ""), "yes", "NO"),
		yes(about{
			title: "Can the journal be written?", unit: verdict, moves: true,
			do: "NO: registrations and drains are refused, redirects and failover go on. `lictor status` says whether the disk is full, read-only or failing; runbook LictorJournalNotWritable.",
		}, q(`min(lictor_journal_writable{`+here+`})`, ""), "yes", "NO"),
		yes(about{
			title: "Does Consul answer?", unit: verdict, moves: true,
			do: "NO: the last known servers stay in force. `lictor status` has the error; runbook LictorConsulContactLost.",
		}, q(`min(lictor_consul_contact{`+here+`})`, ""), "yes", "NO"),
		stat(about{
			title: "How many proxies?", unit: number, moves: true,
			do: "Proxies with a VIP on this host. More than pods: some were not deregistered, see `lictor proxies`; lictord reaps those that Consul no longer knows.",
		}, q(`sum(lictor_proxy_states{`+here+`})`, ""), "blue"),
		stat(about{
			title: "How many are connected?", unit: number, moves: true,
			do: "Proxies with a connection. Fewer than registered: see what the others do, below.",
		}, q(`sum(lictor_proxy_states{`+here+`, state="connected"})`, ""), "blue"),
		stat(about{
			title: "How long has lictord run?", unit: duration, moves: true,
			do: "Time since its start. Short, and you did not restart it: see its log, and that of systemd. Connections outlive it.",
		}, q(`time() - max(process_start_time_seconds{`+here+`})`, ""), "blue"),
	}
}

func hostServers() []Panel {
	sum := func(metric, more string) string { return `sum by (server) (` + metric + `{` + here + more + `})` }
	return []Panel{
		timeseries(about{
			title: "Where are this host's connections?", unit: number, moves: true,
			do: "Connections to each server. A line that falls while another rises is a failover or a drain: see what moved proxies, and why.",
		}, q(sum("lictor_server_connections_active", ""), "{{server}}", "server")),
		table(about{
			title: "How does each server stand here?", unit: number,
			do: "Listed: by the catalog, as passing. Drained servers should lose their connections; if they stay, `lictor servers` says why.",
		}, "server", "Server",
			column{"Listed", sum("lictor_server_listed", ""), truth("yes", "no")},
			column{"Drained", sum("lictor_server_drained", ""), []Mapping{{Type: "value", Options: map[string]Word{
				"0": {Text: "no", Color: "text", Index: 0}, "1": {Text: "yes", Color: "orange", Index: 1},
			}}}},
			column{"Proxies", sum("lictor_proxies", ""), nil},
			column{"Connections", sum("lictor_server_connections_active", ""), nil},
			column{"Failed", sum("lictor_server_connections_total", `, result="failed"`), nil},
			column{"Bounced", sum("lictor_server_connections_total", `, result="bounced"`), nil},
		),
	}
}

func hostConnects() []Panel {
	return []Panel{
		timeseries(about{
			title: "How fast do connections come?", unit: perSecond, moves: true,
			do: "Connects a second by how they ended. Established ones on a quiet host are Envoys that start or fail over; hundreds are a client in a loop: `lictor events -f` names it.",
		}, q(`sum by (result) (rate(lictor_server_connections_total{`+here+`}[$__rate_interval]))`, "{{result}}", "result")),
		timeseries(about{
			title: "How long do connects take?", unit: seconds,
			do: "Time to connect that 99 of 100 connects to each server stay within. Gaps are times without connects. One server above the others: its network or its load.",
		}, q(`histogram_quantile(0.99, sum by (server, le) (rate(lictor_server_connect_seconds_bucket{`+here+`}[$__rate_interval])))`, "{{server}}", "server")),
		events(about{
			title: "What moved proxies, and why?", unit: number, moves: true,
			do: "Placements by reason. Without a cause that you know: `lictor events` says which proxies, `lictor history ID` why this one.",
		}, q(`sum by (reason) (increase(lictor_placements_total{`+here+`}[$__rate_interval]))`, "{{reason}}", "reason")),
		events(about{
			title: "Which connects are refused, and why?", unit: perSecond,
			do: "Connects to VIPs that were refused on this host. stranger: not the VIP's owner. waiting: every server has refused the proxy. owner-unresolved: its namespace or cgroup is not there yet. no-server: none is known.",
		}, q(`sum by (reason) (rate(lictor_denied_total{`+here+`}[$__rate_interval]))`, "{{reason}}", "reason")),
	}
}

func hostProxies() []Panel {
	return []Panel{
		stacked(about{
			title: "What are proxies doing?", unit: number, moves: true,
			do: "connected is well. idle: no Envoy has connected yet. waiting-for-capacity: runbook LictorProxiesWaiting. waiting-for-owner: register it again from its pod. `lictor proxies` names them.",
		}, q(`sum by (state) (lictor_proxy_states{`+here+`})`, "{{state}}", "state")),
		stacked(about{
			title: "How do credentials stand?", unit: number,
			do: "Proxies by how their token, and the servers' TLS for them, stand. Anything but ok: `lictor proxies` has a sentence for each; runbook LictorCredentialsFailing.",
		}, q(`sum by (state) (lictor_proxy_credentials{`+here+`})`, "{{state}}", "state")),
		events(about{
			title: "What is done for credentials?", unit: number,
			do: "Tokens issued by logins, deleted by logouts, and what failed, by reason. Logouts that stay pending: Consul is away, or the daemon's policy lacks acl:write for them.",
		},
			q(`sum(increase(lictor_logins_total{`+here+`}[$__rate_interval]))`, "logins"),
			q(`sum(increase(lictor_logouts_total{`+here+`}[$__rate_interval]))`, "logouts"),
			q(`sum by (reason) (increase(lictor_credential_failures_total{`+here+`}[$__rate_interval]))`, "failed: {{reason}}", "reason"),
			q(`sum(lictor_logouts_pending{`+here+`})`, "logouts pending")),
		timeseries(about{
			title: "How much do servers send?", unit: sizes, moves: true,
			do: "Bytes a second of connections that have ended, counted at their end: a failover shows what its streams had carried. Large after each configuration change: many proxies watch much; see Consul's own metrics of xDS.",
		}, q(`sum by (direction) (rate(lictor_server_bytes_total{`+here+`}[$__rate_interval]))`, "{{direction}}", "direction")),
	}
}

func hostJournal() []Panel {
	return []Panel{
		timeseries(about{
			title: "How long does the disk take?", unit: seconds,
			do: "Time to make a batch of events durable that half of them, and 99 of 100, stay within. A registration waits for it. Above 0.1 s: the disk of --state-dir is slow or shared.",
		},
			q(`histogram_quantile(0.5, sum by (le) (rate(lictor_journal_append_seconds_bucket{`+here+`}[$__rate_interval])))`, "half"),
			q(`histogram_quantile(0.99, sum by (le) (rate(lictor_journal_append_seconds_bucket{`+here+`}[$__rate_interval])))`, "99 of 100")),
		timeseries(about{
			title: "How many events are journaled?", unit: perSecond, moves: true,
			do: "Registrations, placements and changes of servers a second. More than pods come and go: something registers and deregisters in a loop, `lictor events` shows it.",
		}, q(`sum(rate(lictor_journal_seq{`+here+`}[$__rate_interval]))`, "events")),
		timeseries(about{
			title: "How large is the journal?", unit: size, moves: true,
			do: "Size of its file. It is bounded by count and age; the file does not shrink. More than 100 MB: many events are retained, `lictor journal export` shows which.",
		}, q(`sum(lictor_journal_bytes{`+here+`})`, "journal")),
		events(about{
			title: "What is repaired in the map?", unit: number,
			do: "Entries that were missing, changed or unknown, and were repaired. Again and again: something else writes there, runbook LictorDriftRepeating.",
		}, q(`sum by (kind) (increase(lictor_reconcile_drift_total{`+here+`}[$__rate_interval]))`, "{{kind}}", "kind")),
	}
}

func hostDaemon() []Panel {
	return []Panel{
		events(about{
			title: "What does the ring buffer carry?", unit: perSecond, moves: true,
			do: "Events a second that lictord read, by kind, and those that were dropped because it was full. Dropped ones are in every counter; runbook LictorEventsDropped.",
		},
			q(`sum by (kind) (rate(lictor_ring_events_total{`+here+`}[$__rate_interval]))`, "{{kind}}", "kind"),
			q(`sum(rate(lictor_ring_events_dropped_total{`+here+`}[$__rate_interval]))`, "dropped")),
		timeseries(about{
			title: "How much memory does lictord take?", unit: size, moves: true,
			do: "Resident memory of lictord. It grows with registered proxies, some kilobytes each. Growth without more proxies is a defect: report it with the number of proxies.",
		}, q(`sum(process_resident_memory_bytes{`+here+`})`, "resident")),
		timeseries(about{
			title: "How much CPU does lictord take?", unit: portion, moves: true,
			do: "Of one CPU. It is near 0 when nothing connects. High: many connections or registrations, or something repairs the map again and again.",
		}, q(`sum(rate(process_cpu_seconds_total{`+here+`}[$__rate_interval]))`, "CPU")),
		timeseries(about{
			title: "How long does a repair take?", unit: seconds,
			do: "Time to compare the kernel's map with the state that 99 of 100 comparisons stay within. It grows with proxies: some milliseconds for 10,000.",
		}, q(`histogram_quantile(0.99, sum by (le) (rate(lictor_reconcile_seconds_bucket{`+here+`}[$__rate_interval])))`, "99 of 100")),
	}
}
