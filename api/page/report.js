"use strict";
// Draws the report from the JSON in the page. Every text of the model becomes a text node or an attribute, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const colours = ["#3b6fd4", "#d97b1f", "#2f9e5b", "#a3479a", "#cf4f45", "#23949b", "#95870f", "#6a7189"];
const phases = { forward: "#4c7fe0", input_grad: "#e08a3c", weight_grad: "#45ad6e", update: "#a05bb0", transfer: "#8b93a3" };
const phaseNames = { forward: "forward", input_grad: "input gradients", weight_grad: "weight gradients", update: "update", transfer: "transfer" };
const colour = (device) => colours[device % colours.length];

function make(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) e.setAttribute(key, value);
  e.append(...children);
  return e;
}
function draw(name, attributes, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) e.setAttribute(key, value);
  e.append(...children);
  return e;
}
const hint = (text) => draw("title", {}, text);
function units(value, names, step) {
  let i = 0;
  while (Math.abs(value) >= step && i + 1 < names.length) { value /= step; ++i; }
  return (i === 0 && Number.isInteger(value) ? value : value.toPrecision(4).replace(/\.?0+$/, "")) + " " + names[i];
}
const bytes = (b) => units(b, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 1024);
const flops = (f) => units(f, ["FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"], 1000);
const seconds = (s) => (s >= 1 ? s.toPrecision(4) + " s" : s >= 1e-3 ? (s * 1e3).toPrecision(4) + " ms" : (s * 1e6).toPrecision(4) + " \u00b5s");
const percent = (x) => (100 * x).toFixed(1) + " %";
const cut = (text, most) => (text.length <= most ? text : text.slice(0, Math.ceil(most / 2) - 1) + "\u2026" + text.slice(-Math.floor(most / 2)));
const byId = (id) => document.getElementById(id);
function dot(c) { const e = make("span", { class: "dot" }); e.style.background = c; return e; }
function cell(text, kind) { return make("td", kind ? { class: kind, title: text } : {}, text); }

// --- What the plan is worth. ---
function facts() {
  document.title = data.model + " \u2013 mpc plan";
  byId("model").textContent = data.model;
  byId("what").textContent = data.what;
  const card = (value, label) => byId("cards").append(make("div", { class: "card" }, make("b", {}, value), make("span", {}, label)));
  card(String(data.devices.length), data.devices.length === 1 ? "device" : "devices");
  card(seconds(data.step_seconds), "predicted step");
  if (data.measured_seconds > 0) card(seconds(data.measured_seconds), "measured step (" + (data.measured_seconds >= data.step_seconds ? "+" : "\u2212") + percent(Math.abs(data.measured_seconds / data.step_seconds - 1)) + ")");
  if (data.one_device_seconds > 0) card((data.one_device_seconds / data.step_seconds).toFixed(2) + "\u00d7", "speed-up over one device");
  card(percent(data.bubble), "idle (bubble)");
  card(bytes(Math.max(...data.devices.map((d) => d.peak_bytes))), "largest peak of a device");
  card(bytes(data.transfers.reduce((sum, t) => sum + t[3], 0)), "sent between devices per step");
  for (const text of data.warnings) byId("words").append(make("div", { class: "warning" }, text));
  for (const text of data.notes) byId("words").append(make("div", { class: "note" }, text));
  const rows = byId("devices");
  data.devices.forEach((d, i) => {
    rows.append(make("tr", {}, make("td", {}, dot(colour(i)), d.name), cell(d.hardware), cell(String(d.nodes), "n"), cell(bytes(d.parameter_bytes), "n"),
      cell(bytes(d.peak_bytes), "n"), cell(bytes(d.capacity_bytes), "n"), cell(d.capacity_bytes > 0 ? percent(d.peak_bytes / d.capacity_bytes) : "", "n"),
      cell(flops(d.flops), "n"), cell(seconds(d.seconds), "n"), cell(data.step_seconds > 0 ? percent(d.seconds / data.step_seconds) : "", "n")));
  });
}

// --- The split graph: a column per device, blocks within blocks, each open or closed. ---
const tree = data.tree.map(([name, parent, device, node], id) => ({ id, name, parent, device, node, children: [], open: false, s: 0, f: 0, w: 0, count: 0, sum: 0 }));
function readTree() {
  for (const block of tree) if (block.parent >= 0) tree[block.parent].children.push(block);
  for (let i = tree.length - 1; i >= 0; --i) {
    const block = tree[i];
    if (block.node >= 0) {
      const n = data.nodes[block.node];
      [block.s, block.f, block.w, block.count, block.sum] = [n[2], n[3], n[4], 1, block.node];
      n.block = block;
    }
    if (block.parent >= 0) for (const key of ["s", "f", "w", "count", "sum"]) tree[block.parent][key] += block[key];
    if (block.parent < 0) block.open = true;
  }
  // A block stands where most of its nodes do: one that only begins early (a weight that is turned round) stands late.
  for (const block of tree) block.children.sort((a, b) => a.sum / a.count - b.sum / b.count);
}
function visible(block) {  // the closed block or node that stands for it
  let shown = block;
  for (let b = block; b; b = tree[b.parent]) if (!b.open) shown = b;
  return shown;
}
function ancestors(block) { const path = []; for (let b = block; b; b = tree[b.parent]) path.unshift(b); return path; }
function layout(block, edges) {
  const pad = 12, gapX = 14, gapY = 22, header = 24;
  if (!block.open) {
    const op = block.node >= 0 ? data.nodes[block.node][1] : "";
    const label = block.name.includes(op) ? block.name : op + "  " + block.name;
    block.text = cut(label, 34);
    block.facts = block.node >= 0 ? "" : block.count + (block.count === 1 ? " node \u00b7 " : " nodes \u00b7 ") + seconds(block.s);
    block.width = Math.max(110, 6.6 * Math.max(block.text.length + 2, block.facts.length) + 16);
    block.height = block.node >= 0 ? 24 : 38;
    return;
  }
  for (const child of block.children) layout(child, edges);
  // Ranks by the longest path among the children. Blocks stand in the order of readTree; edges back are left out.
  const rank = new Map(block.children.map((c) => [c, 0]));
  const index = new Map(block.children.map((c, i) => [c, i]));
  for (const child of block.children)
    for (const to of (edges.get(block) || new Map()).get(child) || [])
      if (index.get(to) > index.get(child)) rank.set(to, Math.max(rank.get(to), rank.get(child) + 1));
  const rows = [];
  for (const [child, r] of rank) (rows[r] = rows[r] || []).push(child);
  block.width = Math.max(150, 6.6 * Math.min(block.name.length, 40) + 40, ...rows.filter(Boolean).map((row) => row.reduce((sum, c) => sum + c.width + gapX, -gapX) + 2 * pad));
  let y = header + 6;
  for (const row of rows) {
    if (!row) continue;
    let x = (block.width - row.reduce((sum, c) => sum + c.width + gapX, -gapX)) / 2;
    for (const child of row) { child.dx = x; child.dy = y; x += child.width + gapX; }
    y += Math.max(...row.map((c) => c.height)) + gapY;
  }
  block.height = Math.max(y - gapY + pad, header + 20);
}
function place(block, x, y) {
  block.x = x; block.y = y;
  if (block.open) for (const child of block.children) place(child, x + child.dx, y + child.dy);
}
function siblingEdges() {  // per open block: child -> children that read it
  const edges = new Map();
  for (const [from, to] of data.edges) {
    const a = ancestors(data.nodes[from].block), b = ancestors(data.nodes[to].block);
    let i = 0;
    while (i < a.length && i < b.length && a[i] === b[i]) ++i;
    if (i === 0 || i >= a.length || i >= b.length) continue;
    const of = edges.get(a[i - 1]) || edges.set(a[i - 1], new Map()).get(a[i - 1]);
    (of.get(a[i]) || of.set(a[i], new Set()).get(a[i])).add(b[i]);
  }
  return edges;
}
function describe(block) {
  return (block.node >= 0 ? data.nodes[block.node][0] + " (" + data.nodes[block.node][1] + ")" : block.name + ": " + block.count + " nodes") +
    "\n" + data.devices[block.device].name + ", " + seconds(block.s) + " per step, " + flops(block.f) + "\nweights " + bytes(block.w);
}
function drawBlock(block, into) {
  const c = colour(block.device);
  if (block.open) {
    const frame = draw("rect", { x: block.x, y: block.y, width: block.width, height: block.height, rx: 8, fill: c, "fill-opacity": 0.07, stroke: c, "stroke-opacity": 0.5 });
    const isRoot = block.parent < 0;
    const title = draw("text", { x: block.x + 10, y: block.y + 17, "font-weight": 600 }, (isRoot ? "" : "\u2212 ") + cut(isRoot ? data.devices[block.device].name : block.name, 40));
    const group = draw("g", isRoot ? {} : { class: "group" }, frame, title, hint(describe(block)));
    if (!isRoot) group.addEventListener("click", () => { block.open = false; drawGraph(); });
    into.append(group);
    for (const child of block.children) drawBlock(child, into);
    return;
  }
  const isNode = block.node >= 0;
  const box = draw("rect", { class: "box", x: block.x, y: block.y, width: block.width, height: block.height, rx: 6, fill: c, "fill-opacity": isNode ? 0.14 : 0.3, stroke: c });
  const group = draw("g", isNode ? {} : { class: "group" }, box, draw("text", { x: block.x + block.width / 2, y: block.y + 16, "text-anchor": "middle", "font-weight": isNode ? 400 : 600 }, (isNode ? "" : "+ ") + block.text), hint(describe(block)));
  if (!isNode) {
    group.append(draw("text", { class: "faint", x: block.x + block.width / 2, y: block.y + 30, "text-anchor": "middle" }, block.facts));
    group.addEventListener("click", () => { block.open = true; drawGraph(); });
  }
  into.append(group);
}
function drawEdges(into, labels) {
  const joined = new Map();
  for (const [from, to, size, crosses] of data.edges) {
    const a = visible(data.nodes[from].block), b = visible(data.nodes[to].block);
    if (a === b) continue;
    const key = a.id + "," + b.id;
    const edge = joined.get(key) || joined.set(key, { a, b, size: 0, crosses: false }).get(key);
    edge.size += size;
    edge.crosses = edge.crosses || crosses === 1;
  }
  for (const { a, b, size, crosses } of joined.values()) {
    const far = a.device !== b.device;
    let path, mid;
    if (far) {
      const right = b.x > a.x;
      const x1 = right ? a.x + a.width : a.x, y1 = a.y + a.height / 2, x2 = right ? b.x : b.x + b.width, y2 = b.y + b.height / 2;
      const bend = Math.max(40, Math.abs(x2 - x1) / 2) * (right ? 1 : -1);
      path = `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`;
      mid = [(x1 + x2) / 2, (y1 + y2) / 2];
    } else {
      const x1 = a.x + a.width / 2, y1 = a.y + a.height, x2 = b.x + b.width / 2, y2 = b.y;
      // What skips a row passes beside the boxes between.
      const aside = y2 - y1 > 70 && Math.abs(x1 - x2) < 20 ? Math.max(a.width, b.width) / 2 + 14 : 0;
      path = `M${x1},${y1} C${x1 + aside},${y1 + 18} ${x2 + aside},${y2 - 18} ${x2},${y2}`;
    }
    const line = draw("path", { d: path, fill: "none", stroke: far ? colour(a.device) : "var(--faint)", "stroke-opacity": far ? 0.9 : 0.55, "stroke-width": far ? Math.min(6, 1.5 + 0.225 * Math.log2(Math.max(1, size / 1024))) : 1.2, "stroke-dasharray": far && !crosses ? "4 3" : "none", "marker-end": "url(#tip)" }, hint((far ? "sent: " : "") + bytes(size) + " per step"));
    into.append(line);
    if (far && crosses) labels.append(draw("text", { x: mid[0], y: mid[1] - 5, "text-anchor": "middle", "font-weight": 600 }, bytes(size)));
  }
}
function drawGraph() {
  const edges = siblingEdges();
  const svg = draw("svg", { id: "graphsvg" });
  svg.append(draw("defs", {}, draw("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" }, draw("path", { d: "M0,0 L8,4 L0,8 z", fill: "var(--faint)" }))));
  const boxes = draw("g"), lines = draw("g"), labels = draw("g");
  let x = 16, height = 0;
  for (const root of tree.filter((b) => b.parent < 0)) {
    layout(root, edges);
    place(root, x, 16);
    drawBlock(root, boxes);
    x += root.width + 90;
    height = Math.max(height, root.height);
  }
  drawEdges(lines, labels);
  svg.append(boxes, lines, labels);
  svg.setAttribute("width", Math.max(200, x - 74));
  svg.setAttribute("height", height + 32);
  byId("graph").replaceChildren(svg);
}
function openAll(state) { for (const b of tree) if (b.children.length > 0) b.open = state || b.parent < 0; drawGraph(); }
function openFirst() {  // as many blocks as can be looked at
  for (const b of tree) if (b.parent < 0 && b.count <= 12) openBelow(b);
  const roots = tree.filter((b) => b.parent < 0);
  for (const root of roots) if (root.children.length === 1 && root.children[0].children.length > 0) root.children[0].open = true;
}
function openBelow(block) { block.open = block.children.length > 0; for (const c of block.children) openBelow(c); }

// --- The step over time: predicted above, measured below. ---
function axis(svg, x0, width, y0, y1, total, text) {
  for (let i = 0; i <= 4; ++i) {
    const x = x0 + (width * i) / 4;
    svg.append(draw("line", { class: "axis", x1: x, x2: x, y1: y0, y2: y1 }), draw("text", { class: "faint", x, y: y1 + 14, "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle" }, text((total * i) / 4)));
  }
}
function drawTimeline() {
  const hasMeasured = data.measured_seconds > 0;
  const total = Math.max(data.step_seconds, data.measured_seconds) || 1;
  const x0 = 150, width = 1200, bar = 16, rowHeight = hasMeasured ? 2 * bar + 12 : bar + 12;
  const height = data.rows.length * rowHeight;
  const svg = draw("svg", { viewBox: `0 0 ${x0 + width + 10} ${height + 24}`, width: "100%" });
  axis(svg, x0, width, 0, height, total, seconds);
  data.rows.forEach((name, r) => {
    const y = r * rowHeight + 4;
    svg.append(draw("text", { x: 0, y: y + 12, "font-weight": 600 }, cut(name, 22)));
    if (hasMeasured) svg.append(draw("text", { class: "faint", x: x0 - 8, y: y + 12, "text-anchor": "end" }, "pred."), draw("text", { class: "faint", x: x0 - 8, y: y + bar + 14, "text-anchor": "end" }, "meas."));
  });
  const used = new Set(data.bars.map((b) => b[4]));
  if (!used.has("input_grad")) phaseNames.weight_grad = "gradients";  // the plan does not tell the two apart
  for (const [row, measured, start, end, phase, microbatch, label, count] of data.bars) {
    const y = row * rowHeight + 4 + (measured ? bar + 2 : 0);
    const x = x0 + (width * start) / total, w = Math.max(0.6, (width * (end - start)) / total);
    const where = microbatch < 0 ? "once per step" : "micro-batch " + microbatch;
    svg.append(draw("rect", { x, y, width: w, height: bar, rx: Math.min(2, w / 2), fill: phases[phase], "fill-opacity": measured ? 0.72 : 1 }, hint(`${label}${count > 1 ? " and " + (count - 1) + " more" : ""}\n${phaseNames[phase]}, ${where}\n${seconds(start)} to ${seconds(end)} (${seconds(end - start)})${measured ? ", measured" : ", predicted"}`)));
    if (w > 16 && microbatch >= 0 && data.microbatches > 1) { const t = draw("text", { x: x + w / 2, y: y + 12, "text-anchor": "middle" }, String(microbatch)); t.style.fill = "#fff"; t.style.pointerEvents = "none"; svg.append(t); }
  }
  for (const phase of Object.keys(phases)) if (used.has(phase)) byId("phases").append(make("span", {}, dot(phases[phase]), phaseNames[phase]));
  byId("timeline").append(svg);
  byId("timelinesay").textContent = hasMeasured ? "predicted above, measured below" : "predicted; mpc run, train or bench with --report puts the measured step under it";
}

// --- Memory over time, with what is there when it is fullest. ---
function drawMemory() {
  data.memory.forEach((m, d) => {
    const device = data.devices[d];
    const w = 800, h = 150, x0 = 8, y0 = 10, total = data.step_seconds || 1;
    const top = Math.max(device.peak_bytes, ...m.points.map((p) => p[1]), 1) * 1.08;
    const X = (t) => x0 + (w * t) / total, Y = (b) => y0 + h - (h * b) / top;
    const svg = draw("svg", { viewBox: `0 0 ${w + 16} ${h + 34}`, width: "100%" });
    axis(svg, x0, w, y0, y0 + h, total, seconds);
    let path = "";
    m.points.forEach(([t, b], i) => { path += i === 0 ? `M${X(t)},${Y(b)}` : `H${X(t)}V${Y(b)}`; });
    path += `H${X(total)}`;
    svg.append(draw("path", { d: `${path}V${Y(0)}H${X(m.points[0][0])}Z`, fill: colour(d), "fill-opacity": 0.18 }), draw("path", { d: path, fill: "none", stroke: colour(d), "stroke-width": 1.6 }));
    const limit = (b, text, dash) => svg.append(draw("line", { x1: x0, x2: x0 + w, y1: Y(b), y2: Y(b), stroke: "var(--faint)", "stroke-dasharray": dash }), draw("text", { class: "faint", x: x0 + w - 4, y: Y(b) + 12, "text-anchor": "end" }, text));
    limit(device.peak_bytes, "arena " + bytes(device.peak_bytes), "5 4");
    if (device.capacity_bytes > 0 && device.capacity_bytes <= top) limit(device.capacity_bytes, "capacity " + bytes(device.capacity_bytes), "none");
    svg.append(draw("circle", { cx: X(m.peak_time), cy: Y(m.peak_bytes), r: 4, fill: colour(d) }, hint("fullest: " + bytes(m.peak_bytes) + " at " + seconds(m.peak_time))));
    const parts = [["weights", device.parameter_bytes], ["gradients", device.gradient_bytes], ["optimizer", device.optimizer_bytes], ["activations", device.activation_bytes], ["workspace", device.workspace_bytes], ["received", device.staging_bytes]].filter((p) => p[1] > 0);
    const title = make("div", {}, dot(colour(d)), make("b", {}, device.name), make("span", { class: "say" }, "  " + bytes(device.peak_bytes) + " of " + bytes(device.capacity_bytes) + ":  " + parts.map(([n, b]) => n + " " + bytes(b)).join(", ")));
    const table = make("table", {}, make("tr", {}, make("th", {}, "fullest at " + seconds(m.peak_time)), make("th", {}, "what"), make("th", { class: "n" }, "bytes")));
    for (const [name, kind, size] of m.tensors) table.append(make("tr", {}, cell(name, "name"), cell(kind), cell(bytes(size), "n")));
    if (m.others > 0) table.append(make("tr", {}, cell("and " + m.others + " smaller ones"), cell(""), cell(bytes(m.other_bytes), "n")));
    byId("memory").append(make("div", { class: "memory" }, make("div", {}, title, svg), table));
  });
}

// --- Transfers. ---
let order = { column: 3, falls: true }, showsAll = false;
function drawTransfers() {
  const most = 100, c = order.column;
  const rows = [...data.transfers].sort((a, b) => (typeof a[c] === "number" ? a[c] - b[c] : a[c] < b[c] ? -1 : a[c] > b[c] ? 1 : 0) * (order.falls ? -1 : 1));
  byId("transfers").replaceChildren(...rows.slice(0, showsAll ? rows.length : most).map((t) => make("tr", {}, cell(t[0], "name"), make("td", {}, dot(colour(t[1])), data.devices[t[1]].name), make("td", {}, dot(colour(t[2])), data.devices[t[2]].name), cell(bytes(t[3]), "n"), cell(t[4]), cell(seconds(t[5]), "n"))));
  byId("transfersay").textContent = rows.length === 0 ? "none: nothing is sent between devices" : rows.length + " per step" + (!showsAll && rows.length > most ? ", the first " + most + " shown" : "");
  byId("alltransfers").hidden = showsAll || rows.length <= most;
}

readTree();
facts();
if (location.hash === "#open") openAll(true); else { openFirst(); drawGraph(); }
drawTimeline();
drawMemory();
drawTransfers();
byId("openall").addEventListener("click", () => openAll(true));
byId("closeall").addEventListener("click", () => openAll(false));
byId("alltransfers").addEventListener("click", () => { showsAll = true; drawTransfers(); });
document.querySelectorAll("th.sorts").forEach((th, column) => th.addEventListener("click", () => { order = { column, falls: order.column === column ? !order.falls : column >= 3 }; drawTransfers(); }));
document.documentElement.dataset.drawn = "yes";
