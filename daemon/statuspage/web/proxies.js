// The table of proxies: all are known, a hundred are in the document.

import { make, set, text, keep } from "./dom.js";
import { number, at, exact, marks } from "./format.js";

const rows = 100;
const collator = new Intl.Collator("en", { numeric: true });
const known = new Map();
const view = { words: [], sort: "id", down: false, from: 0 };
let list = []; // those that match, in order
let table, found, before, after, announce;

export function setUp(say) {
  announce = say;
  table = document.getElementById("proxy-table");
  found = document.getElementById("found");
  const form = document.getElementById("filter"), input = document.getElementById("q");
  const filter = () => {
    view.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    view.from = 0;
    show();
  };
  form.addEventListener("submit", (e) => { e.preventDefault(); filter(); });
  form.querySelector("button").hidden = true;
  input.addEventListener("input", filter);
  view.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);

  for (const th of table.querySelectorAll("thead th")) {
    const button = make("button", { type: "button" }, th.textContent);
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      view.down = view.sort === th.dataset.sort && !view.down;
      view.sort = th.dataset.sort;
      view.from = 0;
      show();
    });
  }
  before = make("button", { type: "button" }, `the ${rows} before`);
  after = make("button", { type: "button" }, `the next ${rows}`);
  before.addEventListener("click", () => turn(-rows));
  after.addEventListener("click", () => turn(rows));
  document.getElementById("pager").replaceChildren(before, after);
}

function turn(by) {
  view.from = Math.max(0, view.from + by);
  draw();
  announce(found.textContent);
}

// update takes over what an update says of proxies.
export function update(u) {
  if (u.all) known.clear();
  for (const p of u.proxies ?? []) {
    p.text = [p.id, p.where, p.vip, p.server, p.state, p.why].join("\n").toLowerCase();
    known.set(p.id, p);
  }
  for (const id of u.gone ?? []) known.delete(id);
  if (u.all || u.proxies || u.gone) show();
}

// show picks those that match, in order, and draws them.
function show() {
  list = [...known.values()].filter((p) => view.words.every((w) => p.text.includes(w)));
  const by = view.sort, sign = view.down ? -1 : 1;
  const compare = (a, b) =>
    (typeof a[by] === "number" ? a[by] - b[by] : collator.compare(a[by], b[by])) * sign || collator.compare(a.id, b.id);
  list.sort(compare);
  draw();
}

function draw() {
  if (view.from >= list.length) view.from = Math.max(0, Math.ceil(list.length / rows) - 1) * rows;
  const part = list.slice(view.from, view.from + rows);
  const body = table.tBodies[0];
  if (part.length === 0) {
    body.kept = undefined;
    body.replaceChildren(make("tr", {}, make("td", { colspan: 6 },
      known.size === 0 ? "No proxy is registered." : "No proxy matches.")));
  } else {
    keep(body, part, (p) => p.id, build, fill);
  }
  text(found, part.length === 0 ? "none"
    : `${number(view.from + 1)} to ${number(view.from + part.length)} of ${number(list.length)}`);
  set(before, "disabled", view.from > 0 ? null : "");
  set(after, "disabled", view.from + rows < list.length ? null : "");
  before.parentElement.hidden = list.length <= rows;
  for (const th of table.querySelectorAll("thead th")) {
    set(th, "aria-sort", th.dataset.sort === view.sort ? (view.down ? "descending" : "ascending") : null);
  }
}

function build(p) {
  return make("tr", {},
    make("th", { scope: "row" }, p.id, make("span", { class: "quiet" })),
    make("td", { class: "wide" }),
    make("td"),
    make("td", {}, make("span", { class: "mark", "aria-hidden": "true" }), " ", make("span")),
    make("td", { class: "wide" }, make("time"), make("span", { class: "quiet" })),
    make("td", { class: "number" }));
}

function fill(row, p) {
  if (row.shows === p) return;
  row.shows = p;
  const [id, vip, server, state, placed, active] = row.children;
  text(id.lastChild, p.where);
  text(vip, p.vip);
  text(server, p.server || "none");
  set(state, "class", p.level);
  text(state.firstChild, marks[p.level]);
  text(state.lastChild, p.state);
  set(placed.firstChild, "datetime", exact(p.placed));
  text(placed.firstChild, at(p.placed));
  text(placed.lastChild, p.why);
  text(active, number(p.active));
}
