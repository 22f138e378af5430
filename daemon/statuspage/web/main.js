// The page, live. What is shown comes from the daemon alone, as text: nothing
// of it is ever taken for markup.

import { make, set, text, keep } from "./dom.js";
import { setNow, now, number, at, ago, exact, marks } from "./format.js";
import { buildSpark, fillSpark } from "./spark.js";
import { follow } from "./stream.js";
import * as proxies from "./proxies.js";

const by = (id) => document.getElementById(id);
const news = new Map(); // by id
let summary, heardAt, opened = false;

// say tells those who listen instead of looking; not more often than they can
// take in.
let queue = [], saying;
function say(sentence) {
  queue.push(sentence);
  saying ??= setTimeout(() => {
    saying = undefined;
    by("say").textContent = queue.length > 3 ? `${queue.length} things happened. ${queue.at(-1)}` : queue.join(". ");
    queue = [];
  }, 800);
}

function tell(u) {
  setNow(u.now);
  heardAt = u.now;
  if (u.all && u.build !== document.documentElement.dataset.build) {
    location.reload(); // the daemon is of another version
    return;
  }
  document.documentElement.classList.toggle("still", Boolean(u.stale));
  banner(u.stale ?? "");
  text(by("link"), "live");
  set(by("link"), "class", "quiet live");
  if (u.summary) showSummary(u.summary);
  if (u.servers) showServers(u.servers);
  proxies.update(u);
  if (u.all || u.news) showNews(u);
  document.documentElement.dataset.live = "true"; // what was rendered by the daemon is replaced
  opened = true;
}

function lost(full) {
  const since = heardAt ? at(heardAt) : undefined;
  document.documentElement.classList.add("still");
  text(by("link"), since ? `no contact since ${since}` : "no contact");
  set(by("link"), "class", "quiet");
  banner(full
    ? "Too many pages follow lictord on this host; this one waits until another is closed."
    : since
    ? `No contact with lictord since ${since}. What is shown is how things were then. The kernel goes on redirecting without the daemon; this page comes back by itself.`
    : "No contact with lictord. This page tries again by itself.");
}

function banner(sentence) {
  text(by("contact"), sentence);
  by("contact").hidden = sentence === "";
}

function showSummary(s) {
  const verdict = s.ready ? "ready" : "not ready";
  if (summary && summary.ready !== s.ready) say(`lictord is ${verdict}`);
  summary = s;
  document.title = `${verdict}: lictord on ${s.node}`;
  text(by("node"), s.node);
  set(by("verdict"), "class", s.ready ? "ok" : "bad");
  text(by("verdict"), `${s.ready ? marks.ok : marks.bad} ${verdict}`);
  by("problems").hidden = s.problems.length === 0;
  keep(by("problems").querySelector("ul"), s.problems, (p) => p, (p) => make("li", {}, p), () => {});
  keep(by("checks"), s.checks, (c) => c.name,
    (c) => make("div", {}, make("dt", {}, c.name), make("dd", {},
      make("span", { class: "mark", "aria-hidden": "true" }), " ", make("span"), make("span", { class: "quiet" }))),
    (e, c) => {
      const [mark, words, when] = e.lastChild.children;
      set(e, "class", c.level);
      text(mark, marks[c.level]);
      text(words, c.text);
      when.since = c;
      showSince(when);
    });
  text(by("version"), s.version);
  set(by("started"), "datetime", exact(s.started));
  text(by("started"), at(s.started));
}

function showSince(e) {
  const c = e.since;
  text(e, c.at ? `${c.since} ${c.since === "since" ? at(c.at) : ago(c.at)}` : "");
  set(e, "title", c.at ? exact(c.at) : null);
}

function showServers(list) {
  const most = Math.max(1, ...list.map((s) => s.proxies));
  const body = by("servers").tBodies[0];
  if (list.length === 0) {
    body.kept = undefined;
    body.replaceChildren(make("tr", {}, make("td", { colspan: 7 }, "No server is known.")));
    return;
  }
  keep(body, list, (s) => s.id, buildServer, (row, s) => {
    const [id, state, share, connections, made, failed, refused] = row.children;
    text(id.lastChild, s.address);
    set(state, "class", s.level);
    text(state.firstChild, marks[s.level]);
    text(state.lastChild, s.state);
    text(share.firstChild, number(s.proxies));
    set(share.lastChild.lastChild, "width", Math.round((100 * s.proxies) / most));
    text(connections.firstChild, number(s.active));
    fillSpark(connections.lastChild, s.past, s.active);
    text(made, number(s.established));
    text(failed, number(s.failed));
    text(refused, number(s.bounced));
  });
}

function buildServer(s) {
  return make("tr", {},
    make("th", { scope: "row" }, s.id, make("span", { class: "quiet" })),
    make("td", {}, make("span", { class: "mark", "aria-hidden": "true" }), " ", make("span")),
    make("td", {}, make("span", { class: "count" }),
      make("svg", { class: "share", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
        make("rect", { class: "track", width: 100, height: 8 }), make("rect", { class: "part", height: 8 }))),
    make("td", {}, make("span", { class: "count" }), buildSpark()),
    ...["number wide", "number wide", "number wide"].map((c) => make("td", { class: c })));
}

function showNews(u) {
  if (u.all) news.clear();
  for (const n of u.news ?? []) {
    if (opened && !u.all && !news.has(n.id)) say(n.text);
    n.fresh = opened && now() - n.at < 10000;
    news.set(n.id, n);
  }
  const list = [...news.values()].sort((a, b) => b.id - a.id).slice(0, 60);
  for (const id of news.keys()) if (id < (list.at(-1)?.id ?? 0)) news.delete(id);
  const ol = by("news");
  if (list.length === 0) {
    ol.kept = undefined;
    ol.replaceChildren(make("li", { class: "quiet" }, "Nothing yet."));
    return;
  }
  keep(ol, list, (n) => n.id, buildNews, fillNews);
}

function buildNews(n) {
  return make("li", { class: n.fresh ? "fresh" : false },
    make("span", { class: "mark", "aria-hidden": "true" }), " ",
    make("time", { datetime: exact(n.at), title: exact(n.at) }, at(n.at)), " ", make("span"), make("span", { class: "why" }),
    make("details", { hidden: "" }, make("summary", {}, "which"), make("span")));
}

function fillNews(li, n) {
  if (li.shows === n) return;
  li.shows = n;
  const [mark, , what, why, details] = li.children;
  li.classList.remove("ok", "note", "bad");
  li.classList.add(n.level);
  text(mark, marks[n.level]);
  text(what, n.text);
  text(why, n.why ? `: ${n.why}` : "");
  details.hidden = !n.names;
  text(details.lastChild, (n.names ?? []).join(", ") + (n.names?.length >= 12 ? ", …" : ""));
}

proxies.setUp(say);
setInterval(() => { for (const e of document.querySelectorAll("#checks dd .quiet")) if (e.since) showSince(e); }, 1000);
follow(tell, lost);
