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
const hello = "Each bar is a layer, as high as its share of the multiply-accumulates; each arc is an axis, from its first layer to its last. Choose an axis to see what is tied, or a layer to see its axes.";

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
function fan(places) {
  for (const i of places.slice(1)) {
    const a = middle(places[0]), b = middle(i), far = Math.min(1, (i - places[0]) / D.longest), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${a} ${BARS}Q${(a + b) / 2} ${BARS + DEEP * Math.sqrt(far)} ${b} ${BARS}`);
    arcs.append(path);
  }
}

function ties(a) {
  const rows = rowsOf(a), inside = new Map();
  for (const r of rows) {
    mark(row(r), "on");
    mark(rects[place.get(r)], "on");
    for (let up = row(r).parentElement.closest("details"); up; up = up.parentElement.closest("details")) {
      inside.set(up, (inside.get(up) || 0) + 1);
    }
  }
  for (const [up, n] of inside) {
    mark(up, "has");
    up.querySelector("small").dataset.has = n;
  }
  fan(rows.map(r => place.get(r)).sort((x, y) => x - y));
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
  const mine = [...new Set(onRow[r].map(u => u[0]))];
  if (pinned === null && mine.length) {
    get("map").classList.add("busy");
    for (const a of mine) fan(rowsOf(a).map(x => place.get(x)).sort((x, y) => x - y));
  }
  for (const a of mine) mark(document.querySelector(`.axis[data-a="${a}"]`), "lit");
  const [name, ...rest] = D.rows[r];
  if (mine.length) rest.push(`on ${mine.length} ax${mine.length === 1 ? "is" : "es"}`);
  say(name, " · " + rest.join(" · "));
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
  box.append(el("p", "", facts), list);
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
addEventListener("keydown", e => { if (e.key === "Escape" && pinned !== null) pin(pinned); });

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
