"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (s, r = document) => [...r.querySelectorAll(s)];
const el = (tag, cls, text) => { const e = document.createElement(tag); e.className = cls || ""; e.textContent = text || ""; return e; };
const get = id => document.getElementById(id);
const row = i => get("r" + i);
const WIDE = 1000, BARS = 64, DEEP = 124;

// Row -> its uses as [axis, tensor, dimension, indices, size], and the place of every row on the map.
const onRow = D.rows.map(() => []);
D.axes.forEach((axis, a) => axis.uses.forEach(([t, ...rest]) => onRow[D.tensors[t][2]].push([a, t, ...rest])));
const place = new Map(D.slots.map((r, i) => [r, i]));
const rects = $("#map rect"), state = document.querySelector(".state p"), arcs = document.querySelector("#map .now");
const rowsOf = a => [...new Set(D.axes[a].uses.map(u => D.tensors[u[0]][2]))].sort((x, y) => x - y);
const hello = "Each bar is a layer, as high as its cost; each arc is an axis, from its first layer to its last. Choose an axis to see what is tied, or a layer to see its axes.";

let pinned = null, marked = [];
const mark = (e, cls) => { if (e) { e.classList.add(cls); marked.push([e, cls]); } };
const say = (name, text) => state.replaceChildren(...(name ? [el("strong", "", name), text] : [text]));
const middle = i => (i + 0.5) / D.slots.length * WIDE;

function clear() {
  for (const [e, cls] of marked) e.classList.remove(cls);
  marked = [];
  arcs.replaceChildren();
  get("map").classList.remove("busy");
}

// Arcs from the first of some places to all others.
function fan(places, cls) {
  for (const i of places.slice(1)) {
    const a = middle(places[0]), b = middle(i), far = Math.min(1, (i - places[0]) / D.longest), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    if (cls) path.setAttribute("class", cls);
    path.setAttribute("d", `M${a} ${BARS}Q${(a + b) / 2} ${BARS + DEEP * Math.sqrt(far)} ${b} ${BARS}`);
    arcs.append(path);
  }
}

// An axis lights its rows, its bars and its arcs; a second one at once has another colour.
function ties(a, cls = "on") {
  const rows = rowsOf(a), inside = new Map();
  for (const r of rows) {
    mark(row(r), cls);
    mark(rects[place.get(r)], cls);
    for (let up = row(r).parentElement.closest("details"); up; up = up.parentElement.closest("details")) {
      inside.set(up, (inside.get(up) || 0) + 1);
    }
  }
  for (const [up, n] of inside) {
    mark(up, "has");
    up.querySelector("small").dataset.has = n;
  }
  fan(rows.map(r => place.get(r)).sort((x, y) => x - y), cls === "on" ? "" : cls);
  get("map").classList.add("busy");
}

function showAxis(a) {
  clear();
  ties(a);
  mark(document.querySelector(`.axis[data-a="${a}"]`), "lit");
  say(D.axes[a].name, ` · ${D.axes[a].facts}${D.axes[a].free ? "" : " · stays"}`);
}

function showRow(r) {
  clear();
  if (pinned !== null) ties(pinned);
  mark(rects[place.get(r)], "at");
  const mine = [...new Set(onRow[r].map(u => u[0]))].sort((x, y) => D.axes[y].free - D.axes[x].free);
  if (pinned === null) mine.slice(0, 2).forEach((a, i) => ties(a, i ? "b" : "on"));
  for (const a of mine) mark(document.querySelector(`.axis[data-a="${a}"]`), "lit");
  const [name, ...rest] = D.rows[r], line = D.code.lines[D.code.of[r]];
  if (line) rest.push(line[0]);
  say(name, " · " + rest.join(" · "));
  mine.forEach((a, i) => {
    state.append(i ? ", " : " · on ");
    if (pinned === null && i < 2) state.append(el("i", i ? "b" : ""));
    state.append(D.axes[a].name + (D.axes[a].free ? "" : " (stays)"));
  });
}

function rest() {
  clear();
  if (pinned !== null) showAxis(pinned); else say("", hello);
}

function reveal(r) {
  for (let up = row(r).parentElement.closest("details"); up; up = up.parentElement.closest("details")) up.open = true;
  row(r).scrollIntoView({ block: "center", behavior: "smooth" });
  row(r).classList.add("flash");
  setTimeout(() => row(r).classList.remove("flash"), 1400);
}

function pin(a) {
  pinned = pinned === a ? null : a;
  $(".more").forEach(e => e.remove());
  $(".axis").forEach(b => b.setAttribute("aria-pressed", String(+b.dataset.a === pinned)));
  get("clear").hidden = pinned === null;
  if (pinned !== null) {
    const button = document.querySelector(`.axis[data-a="${pinned}"]`);
    button.after(members(pinned));
    if (button.offsetParent === null) filter("all", "");
    button.scrollIntoView({ block: "nearest" });
  }
  rest();
}

function members(a) {
  const box = el("div", "more"), list = el("ul"), by = new Map();
  for (const [t, dim, count, size] of D.axes[a].uses) {
    const [name, , r] = D.tensors[t];
    const leaf = (D.rows[r][0] === name ? "" : name.slice(name.lastIndexOf(".") + 1)) + ":" + dim + (count === size ? "" : ` (${count} of ${size})`);
    by.set(r, [...(by.get(r) || []), leaf]);
  }
  for (const [r, parts] of [...by].sort((x, y) => x[0] - y[0])) {
    const item = el("li"), button = el("button", "", "");
    button.append(el("code", "", D.rows[r][0]));
    button.addEventListener("click", () => reveal(r));
    item.append(button, el("span", "hint", " " + parts.join(", ")));
    list.append(item);
  }
  box.append(el("p", "hint", "Layers, and their parameters by dimension:"), list);
  return box;
}

// What a layer holds is written when it is first opened.
function fill(r) {
  const box = row(r).querySelector(".in"), list = el("ul", "dims"), by = new Map();
  if (box.childElementCount) return;
  for (const use of onRow[r]) by.set(use[1], [...(by.get(use[1]) || []), use]);
  D.tensors.forEach(([name, shape, owner], t) => {
    if (owner !== r) return;
    const item = el("li");
    item.append(el("code", "", name.slice(name.lastIndexOf(".") + 1)), ` ${shape} `);
    for (const [a, , dim, count, size] of (by.get(t) || []).sort((x, y) => x[2] - y[2])) {
      const part = count === size ? "" : ` (${count} of ${size})`;
      const chip = el("button", "chip" + (D.axes[a].free ? "" : " stays"), `dim ${dim}${part}: ${D.axes[a].name}${D.axes[a].free ? "" : ", stays"}`);
      chip.addEventListener("click", () => { if (pinned !== a) pin(a); });
      item.append(chip);
    }
    list.append(item);
  });
  const facts = D.rows[r].slice(1).join(" · ");
  box.append(el("p", "", facts));
  const line = D.code.lines[D.code.of[r]];
  if (line) {
    box.append(el("p", "", line[0]));
    if (line[1]) box.append(el("code", "line", line[1]));
  }
  box.append(list);
}

D.rows.forEach((_, r) => {
  const details = row(r), summary = details.querySelector("summary");
  summary.addEventListener("pointerenter", e => { if (e.pointerType !== "touch") showRow(r); });
  summary.addEventListener("pointerleave", e => { if (e.pointerType !== "touch") rest(); });
  summary.addEventListener("focus", () => showRow(r));
  summary.addEventListener("blur", rest);
  if (!details.classList.contains("block")) details.addEventListener("toggle", () => { if (details.open) fill(r); });
});
for (const button of $(".axis")) {
  const a = +button.dataset.a;
  button.addEventListener("click", () => pin(a));
  button.addEventListener("pointerenter", e => { if (e.pointerType !== "touch") showAxis(a); });
  button.addEventListener("pointerleave", e => { if (e.pointerType !== "touch") rest(); });
  button.addEventListener("focus", () => showAxis(a));
  button.addEventListener("blur", rest);
}
get("clear").addEventListener("click", () => pin(pinned));

// Keys: the rows that are seen are a list to walk through, the tree opens and closes.
const shown = () => $(".tree summary").filter(s => s.offsetParent !== null);
const above = details => details.parentElement.closest("details");
function step(summary, key) {
  const details = summary.parentElement, outer = above(details);
  if (key === "ArrowRight" && !details.open) { details.open = true; return; }
  if (key === "ArrowLeft" && details.open) { details.open = false; return; }
  if (key === "ArrowLeft") { if (outer) outer.querySelector("summary").focus(); return; }
  const all = shown(), i = all.indexOf(summary);
  const to = { ArrowUp: i - 1, ArrowDown: i + 1, ArrowRight: i + 1, Home: 0, End: all.length - 1 }[key];
  if (all[to]) all[to].focus();
}
addEventListener("keydown", e => {
  const at = document.activeElement, typing = at && /^(INPUT|SELECT)$/.test(at.tagName);
  if (e.key === "Escape") {
    if (typing && at.value) { at.value = ""; at.dispatchEvent(new Event("input")); }
    else if (typing) at.blur();
    else if (pinned !== null) pin(pinned);
  } else if (e.key === "/" && !typing) {
    e.preventDefault();
    get("seek").focus();
  } else if (at && at.matches(".tree summary") && /^(Arrow|Home|End)/.test(e.key) && !e.altKey && !e.ctrlKey && !e.metaKey) {
    e.preventDefault();
    step(at, e.key);
  }
});

// Finding layers: what matches stays, with all that is around it; what was open comes back.
const all = D.rows.map((_, r) => row(r)), words = D.rows.map((facts, r) => `${facts[0]} ${all[r].querySelector("summary .n").textContent}`.toLowerCase());
let before = null, found = [], next = 0;
function seek(text) {
  const wanted = text.trim().toLowerCase();
  if (before === null && wanted) before = new Set(all.filter(d => d.open));
  found = wanted ? all.filter((_, r) => words[r].includes(wanted)) : [];
  next = 0;
  const hits = new Set(found), keep = new Set(found), around = new Set();
  for (const d of found) for (let up = above(d); up && !around.has(up); up = above(up)) { around.add(up); keep.add(up); }
  for (const d of all) if (hits.has(above(d)) || (keep.has(above(d)) && !around.has(above(d)))) keep.add(d);  // all of a module that is found
  for (const d of all) {
    d.classList.toggle("hit", hits.has(d));
    d.classList.toggle("miss", Boolean(wanted) && !keep.has(d));
    if (d.classList.contains("block")) d.open = wanted ? around.has(d) : before === null ? d.open : before.has(d);
  }
  if (!wanted) before = null;
  get("hits").textContent = wanted ? `${found.length} found` : "";
}
get("seek").addEventListener("input", e => seek(e.target.value));
get("seek").addEventListener("keydown", e => {
  if (e.key !== "Enter" || !found.length) return;
  const d = found[next++ % found.length];
  d.scrollIntoView({ block: "center" });
  d.classList.remove("flash");
  void d.offsetWidth;
  d.classList.add("flash");
  showRow(+d.id.slice(1));
});

// What the bars of the map show.
function bars(which) {
  const values = D.costs.map(c => c[which]), peak = Math.max(1, ...values);
  values.forEach((v, i) => {
    const high = v ? Math.max(1.5, (BARS - 4) * v / peak) : 1.5;
    rects[i].setAttribute("y", (BARS - high).toFixed(2));
    rects[i].setAttribute("height", high.toFixed(2));
  });
  $(".which button").forEach(b => b.setAttribute("aria-pressed", String(+b.dataset.cost === which)));
}
$(".which button").forEach(b => b.addEventListener("click", () => bars(+b.dataset.cost)));

// The map: the bar under the pointer is a layer.
const svg = document.querySelector("#map svg");
const under = e => {
  const box = svg.getBoundingClientRect();
  const i = Math.floor((e.clientX - box.left) / box.width * D.slots.length);
  return D.slots[Math.max(0, Math.min(i, D.slots.length - 1))];
};
svg.addEventListener("pointermove", e => { if (D.slots.length) showRow(under(e)); });
svg.addEventListener("pointerleave", rest);
svg.addEventListener("click", e => { if (D.slots.length) reveal(under(e)); });

// Which axes are listed, and in which order.
function filter(kind, text) {
  $("#kinds button").forEach(b => b.setAttribute("aria-pressed", String(b.dataset.kind === kind)));
  get("find").value = text;
  for (const item of $("#axes > li")) {
    const button = item.querySelector(".axis");
    if (button) item.hidden = !(kind === "all" || button.classList.contains(kind)) || !button.textContent.toLowerCase().includes(text.toLowerCase());
  }
}
const kind = () => document.querySelector("#kinds [aria-pressed=true]").dataset.kind;
$("#kinds button").forEach(b => b.addEventListener("click", () => filter(b.dataset.kind, get("find").value)));
get("find").addEventListener("input", e => filter(kind(), e.target.value));
const items = $("#axes > li");
get("sort").addEventListener("change", e => {
  const key = e.target.value, sorted = [...items];
  if (key !== "order") sorted.sort((x, y) => y.dataset[key] - x.dataset[key]);
  get("axes").replaceChildren(...sorted);
});

const blocks = $(".row.block");
get("open").addEventListener("click", () => blocks.forEach(b => { b.open = true; }));
get("close").addEventListener("click", () => blocks.forEach(b => { b.open = false; }));
rest();
