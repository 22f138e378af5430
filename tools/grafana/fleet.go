package grafana

// Even is how much more than its share the fullest server has.
const even = `max by (job) (sum by (job, server) (lictor_server_connections_active{job=~"$job"}) ` +
	`and max by (job, server) (lictor_server_listed{job=~"$job"} * (1 - lictor_server_drained{job=~"$job"})) == 1)` +
	` / avg by (job) (sum by (job, server) (lictor_server_connections_active{job=~"$job"}) ` +
	`and max by (job, server) (lictor_server_listed{job=~"$job"} * (1 - lictor_server_drained{job=~"$job"})) == 1)`

// Fleet is the dashboard of all hosts.
func Fleet() Dashboard {
	return dashboard("lictor-fleet", "Lictor: the fleet",
		"Which Consul server carries what, what failed over and why, and which hosts need a look.",
		nil,
		lay(
			row{4, fleetNow()},
			row{9, fleetLoad()},
			row{8, fleetMoves()},
			row{8, fleetWaits()},
			row{8, fleetHealth()},
			row{9, fleetHosts()},
		))
}

func fleetNow() []Panel {
	return []Panel{
		stat(about{
			title: "How many hosts run?", unit: number, moves: true,
			do: "Hosts whose lictord answers. Fewer than there are: see which targets are down in Prometheus. Redirects go on in the kernel of a host whose lictord is away.",
		}, q(`sum(up{job=~"$job"})`, ""), "blue"),
		stat(about{
			title: "How many are not ready?", unit: number,
			do: "Hosts whose lictord is away, or whose hook, journal or servers are not as they must be. Above 0: find them in the table at the bottom, and run `lictor status` there.",
		}, q(`count(up{job=~"$job"}) - (sum(lictor_ready{job=~"$job"}) or vector(0))`, ""), "green", step{1, "red"}),
		stat(about{
			title: "How many proxies are up?", unit: number, moves: true,
			do: "Proxies with a connection to a Consul server. A fall: see who is not connected, and why, below.",
		}, q(`sum(lictor_proxy_states{job=~"$job", state="connected"})`, ""), "blue"),
		stat(about{
			title: "How even is the load?", unit: share, moves: true,
			do: "How many times its share the fullest server has; 1 is even, and Consul's own limit is 1.1. Above 1.3 for long: see which server carries what. A server that came back fills slowly, as streams begin anew: runbook LictorUnevenLoad.",
		}, q(`max(`+even+`)`, ""), "green", step{1.3, "orange"}, step{2, "red"}),
		stat(about{
			title: "How many failed over?", unit: number, moves: true,
			do: "Times in the whole range shown that a proxy was placed anew because its server was gone, failed or refused. Many at once are one server's loss: see what failed over, and why.",
		}, q(`sum(increase(lictor_placements_total{job=~"$job", reason=~"connect-failed|server-gone|bounced"}[$__range]))`, ""), "blue"),
		stat(about{
			title: "Is anything dropped?", unit: number,
			do: "Connection events that the ring buffer had no room for, in the whole range shown. Counters have them all, `lictor events` has not. Again and again: lictord has too little CPU, or a client connects in a loop.",
		}, q(`sum(increase(lictor_ring_events_dropped_total{job=~"$job"}[$__range]))`, ""), "green", step{1, "orange"}),
	}
}

func fleetLoad() []Panel {
	load := timeseries(about{
		title: "Which server carries what?", unit: number, moves: true,
		do: "Connections of all hosts to each server. Lines far apart: a server came back and fills slowly, or is full; see `lictor servers`. A line that falls to 0 is a server that was lost or drained.",
	}, q(`sum by (server) (lictor_server_connections_active{job=~"$job"})`, "{{server}}", "server"))
	now := bars(about{
		title: "Who has how many proxies?", unit: number, moves: true,
		do: "Proxies that are placed first on each server, connected or not. Not even while connections are: placements have moved and streams follow at their next connect.",
	}, q(`sum by (server) (lictor_proxies{job=~"$job"})`, "{{server}}", "server"))
	return []Panel{load, now}
}

func fleetMoves() []Panel {
	return []Panel{
		events(about{
			title: "What failed over, and why?", unit: number, moves: true,
			do: "Placements by reason: server-gone (the catalog dropped it), connect-failed (nobody answered), bounced (it refused), operator (a drain), rebalance. Without a cause that you know: `lictor events` on a host says which proxies, `lictor history ID` since when.",
		}, q(`sum by (reason) (increase(lictor_placements_total{job=~"$job", reason!="initial"}[$__rate_interval]))`, "{{reason}}", "reason")),
		events(about{
			title: "Which server fails or refuses?", unit: perSecond, moves: true,
			do: "Connects a second that a server failed (nobody answers: process, port, network) or bounced (it answers and ends the stream: over its limit, or a credential). For minutes: runbook LictorServerRefusing.",
		}, q(`sum by (server, result) (rate(lictor_server_connections_total{job=~"$job", result=~"failed|bounced"}[$__rate_interval]))`,
			"{{server}} {{result}}", "result", "server")),
		timeseries(about{
			title: "How long do connects take?", unit: seconds,
			do: "Time from connect to established that half of the connects, and 99 of 100, stay within. Gaps are times without connects. A step up on all servers is the network's, on one that server's.",
		},
			q(`histogram_quantile(0.5, sum by (le) (rate(lictor_server_connect_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "half"),
			q(`histogram_quantile(0.99, sum by (le) (rate(lictor_server_connect_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "99 of 100")),
	}
}

func fleetWaits() []Panel {
	return []Panel{
		stacked(about{
			title: "Who is not connected, and why?", unit: number,
			do: "Proxies without a connection. idle: no Envoy has connected. waiting-for-capacity: every server has refused it, runbook LictorProxiesWaiting. waiting-for-owner: its network namespace or cgroup is not on the host. no-server: no server is known.",
		}, q(`sum by (state) (lictor_proxy_states{job=~"$job", state!="connected"})`, "{{state}}", "state")),
		events(about{
			title: "Which connects are refused on the host?", unit: perSecond,
			do: "Connects to VIPs that the kernel refused. stranger: somebody used a VIP that is not his; find him with `lictor events`. waiting: a proxy that every server refused. no-entry: an address of the pool that is nobody's, perhaps of a proxy that was deregistered.",
		}, q(`sum by (reason) (rate(lictor_denied_total{job=~"$job"}[$__rate_interval]))`, "{{reason}}", "reason")),
		stacked(about{
			title: "Which credentials fail?", unit: number,
			do: "Proxies whose token, or the servers' TLS, is not accepted, by how. They keep the configuration that they have and get no changes: runbook LictorCredentialsFailing; `lictor proxies` names them.",
		}, q(`sum by (state) (lictor_proxy_credentials{job=~"$job", state!~"ok|not-tried"})`, "{{state}}", "state")),
	}
}

func fleetHealth() []Panel {
	return []Panel{
		timeseries(about{
			title: "How many hosts are not well, and why?", unit: number,
			do: "Hosts whose lictord is away, whose hook is not in effect, whose journal cannot be written, or that reach no Consul server. Each has a runbook: LictorDown, LictorHookNotInEffect, LictorJournalNotWritable, LictorConsulContactLost.",
		},
			q(`count(up{job=~"$job"}) - sum(up{job=~"$job"})`, "lictord away"),
			q(`count(lictor_hook_in_effect{job=~"$job"}) - sum(lictor_hook_in_effect{job=~"$job"})`, "hook not in effect"),
			q(`count(lictor_journal_writable{job=~"$job"}) - sum(lictor_journal_writable{job=~"$job"})`, "journal not writable"),
			q(`count(lictor_consul_contact{job=~"$job"}) - sum(lictor_consul_contact{job=~"$job"})`, "no contact with Consul")),
		events(about{
			title: "Does anything else write into the maps?", unit: number,
			do: "Entries of the kernel's map that were not as lictord had written them, and were repaired. Again and again: something else writes there, runbook LictorDriftRepeating.",
		}, q(`sum by (kind) (increase(lictor_reconcile_drift_total{job=~"$job"}[$__rate_interval]))`, "{{kind}}", "kind")),
		events(about{
			title: "Where are events dropped?", unit: number,
			do: "Connection events that a host's ring buffer had no room for. No counter misses them. Runbook LictorEventsDropped.",
		}, q(`sum by (instance) (increase(lictor_ring_events_dropped_total{job=~"$job"}[$__rate_interval]))`, "{{instance}}", "instance")),
	}
}

func fleetHosts() []Panel {
	sum := func(metric, more string) string {
		return `sum by (instance) (` + metric + `{job=~"$job"` + more + `})`
	}
	return []Panel{table(about{
		title: "Which hosts need a look?", unit: number,
		do: "One row for each host whose lictord answers. Red: run `lictor status` there, which says what to do. A host that is missing is not scraped, or its lictord is away.",
	}, "instance", "Host",
		column{"Ready", sum("lictor_ready", ""), truth("yes", "NO")},
		column{"Hook", sum("lictor_hook_in_effect", ""), truth("in effect", "NOT in effect")},
		column{"Journal", sum("lictor_journal_writable", ""), truth("writable", "NOT writable")},
		column{"Consul", sum("lictor_consul_contact", ""), truth("answers", "NO contact")},
		column{"Proxies", sum("lictor_proxy_states", ""), nil},
		column{"Connections", sum("lictor_server_connections_active", ""), nil},
		column{"Waiting", sum("lictor_proxy_states", `, state="waiting-for-capacity"`), nil},
		column{"Credentials failing", sum("lictor_proxy_credentials", `, state!~"ok|not-tried"`), nil},
	)}
}
