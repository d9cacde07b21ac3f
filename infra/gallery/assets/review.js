// Review: what was said, made right by hand. Everything works by keyboard; what is saved is told only when it is.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg", one = (what, within = document) => within.querySelector(what);
  const doc = JSON.parse(one("#document").textContent);
  const hands = one("#hands"), said = one("#said"), conflict = one("#conflict"), stage = one(".stage"), svg = one("svg.over", stage);
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const kind = doc.result.regions ? "regions" : doc.result.tracks ? "tracks"
    : /extraction/.test(doc.capability) ? "extracted" : "text";
  const COLOURS = 10, EDGES = ["x_min", "y_min", "x_max", "y_max"];
  let result = copy(doc.result), past = [], chosen = -1, expected = doc.expected, drawing = false, busy = false;
  const saves = JSON.parse(sessionStorage.getItem("sightflow-saves") || "[]");
  for (const name of ["regions", "tracks", "segments"]) if (name === kind && !result[name]) result[name] = [];

  function tell(text, bad = false) {
    said.hidden = false;
    said.textContent = text;
    said.classList.toggle("bad", bad);
  }
  const changed = () => JSON.stringify(result) !== JSON.stringify(doc.result);
  function remember() {
    const last = past[past.length - 1];
    if (!last || JSON.stringify(last[0]) !== JSON.stringify(result)) past.push([copy(result), chosen]);
  }
  function make(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key in made) made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }
  // crc32, as the server colours labels.
  function colour(label) {
    let sum = ~0;
    for (const byte of new TextEncoder().encode(label)) {
      sum ^= byte;
      for (let bit = 0; bit < 8; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
    }
    return (~sum >>> 0) % COLOURS;
  }

  // --- text, segments, fields -------------------------------------------------------------------------

  function texts() {
    const area = (label, value, set, id) => make("label", { className: "grow" }, label, make("textarea", {
      id, value: value ?? "", rows: 4, spellcheck: true, dir: "auto",
      onfocus: remember, oninput: (event) => { set(event.target.value); buttons(); },
    }));
    const parts = [];
    if (kind === "text") {
      parts.push(area("Text", result.text, (value) => { result.text = value; }, "text"));
      (result.segments || []).forEach((segment, k) => parts.push(area(`${segment.start.toFixed(1)} to ${segment.end.toFixed(1)} s`,
        segment.text, (value) => { result.segments[k].text = value; })));
    } else {
      let shown = result.extracted;
      try { shown = JSON.stringify(JSON.parse(shown), null, 2); } catch { /* shown as it is */ }
      parts.push(area("Fields, as JSON", shown, (value) => { result.extracted = value; }, "text"));
    }
    hands.replaceChildren(make("div", { className: "sql" }, ...parts));
  }

  // --- boxes --------------------------------------------------------------------------------------------

  const things = () => result[kind] || [];
  const second = () => stage.player?.now ?? null;
  function shown(region) {
    if (region.seconds === null || region.seconds === undefined || second() === null) return true;
    const step = 1 / (doc.frameRate || 25), at = second() + step / 2;
    const latest = Math.max(-1, ...things().map((each) => each.seconds).filter((each) => each <= at));
    return region.seconds === latest;
  }

  function boxes() {
    const list = make("ul", { className: "regions" });
    things().forEach((thing, k) => {
      const numbers = kind === "regions" ? EDGES.map((edge) => Math.round(thing[edge])).join(" ") : `track ${thing.track_id}`;
      const button = make("button", { type: "button", className: "region", ariaPressed: String(k === chosen), onclick: () => { choose(k); } },
        make("span", { className: `label c${colour(thing.label)}`, dir: "auto" }, thing.label), make("span", { className: "numbers" }, numbers));
      list.append(make("li", {}, button));
    });
    const rename = make("label", {}, "Label ", make("input", {
      id: "label", value: things()[chosen]?.label ?? "", disabled: chosen < 0, autocomplete: "off", dir: "auto",
      onchange: (event) => { if (things()[chosen] && event.target.value.trim()) { remember(); things()[chosen].label = event.target.value.trim(); draw(); } },
      onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); event.target.blur(); } },
    }));
    one("input", rename).setAttribute("list", "names");
    const acts = make("p", { className: "actions" },
      ...(kind === "regions" && doc.capability !== "segmentation" ? [make("button", { type: "button", onclick: add }, "Draw a box ", make("kbd", {}, "b"))] : []),
      make("button", { type: "button", disabled: chosen < 0, onclick: drop }, "Delete ", make("kbd", {}, "d")));
    const focused = document.activeElement?.closest?.(".region") && chosen >= 0;
    hands.replaceChildren(make("p", { className: "count" }, `${things().length} ${kind}`), list, make("div", { className: "filters" }, rename), acts);
    if (focused) list.children[chosen]?.firstChild.focus({ preventScroll: true });
  }

  function draw() {
    if (kind === "text" || kind === "extracted") { texts(); buttons(); return; }
    boxes();
    buttons();
    if (!svg) return;
    if (kind === "tracks") { tracks(); return; }
    const unit = Number(stage.dataset.width) / (stage.clientWidth || 1);
    let layer = one("g.hands", svg);
    if (!layer) {
      layer = document.createElementNS(SVG, "g");
      layer.setAttribute("class", "layer hands");
      svg.append(layer);
    }
    layer.replaceChildren(...things().map((region, k) => {
      const shape = document.createElementNS(SVG, "g"), box = document.createElementNS(SVG, "rect"), text = document.createElementNS(SVG, "text");
      shape.setAttribute("class", `shape c${colour(region.label)}${k === chosen ? " active" : ""}${shown(region) ? "" : " off"}`);
      for (const [name, value] of [["class", "box"], ["x", region.x_min], ["y", region.y_min], ["width", region.x_max - region.x_min],
        ["height", region.y_max - region.y_min]]) box.setAttribute(name, value);
      box.dataset.place = k;
      text.textContent = region.label;
      text.setAttribute("x", region.x_min);
      text.setAttribute("y", region.y_min > 16 * unit ? region.y_min - 4 * unit : region.y_min + 15 * unit);
      shape.append(box, text);
      if (k === chosen && region.mask === null) {
        const handle = document.createElementNS(SVG, "rect"), side = 12 * unit;
        for (const [name, value] of [["class", "handle"], ["x", region.x_max - side / 2], ["y", region.y_max - side / 2], ["width", side], ["height", side]]) handle.setAttribute(name, value);
        handle.dataset.place = k;
        shape.append(handle);
      }
      return shape;
    }));
  }
  function tracks() {
    const names = new Map(things().map((track) => [track.track_id, track.label]));
    const player = stage.player;
    if (!player) return;
    for (const shape of player.shown.values()) shape.remove();
    player.shown.clear();
    player.layers = [[doc.enrichment, doc.tracks.filter((track) => names.has(track.id)).map((track) => ({ ...track, label: names.get(track.id), colour: colour(names.get(track.id)) }))]];
    player.draw(player.now || 0);
    const active = things()[chosen];
    if (active) player.shown.get(`${doc.enrichment}-${active.track_id}`)?.classList.add("active");
  }

  function choose(place, scrolls = true) {
    chosen = things().length ? (place + things().length) % things().length : -1;
    const region = things()[chosen];
    if (region && kind === "regions" && region.seconds !== null && stage.player) stage.player.seek(region.seconds);
    draw();
    hands.querySelectorAll(".region")[chosen]?.focus({ preventScroll: !scrolls });
    if (region) tell(`${region.label} is chosen, ${chosen + 1} of ${things().length}`);
  }
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  function movable() {
    const region = things()[chosen];
    if (!region || kind !== "regions") return null;
    if (region.mask !== null) { tell("a box with a mask stays where its mask is; delete it, or rename it", true); return null; }
    return region;
  }
  function move(region, dx, dy) {
    const x = clamp(dx, -region.x_min, doc.width - region.x_max), y = clamp(dy, -region.y_min, doc.height - region.y_max);
    region.x_min += x; region.x_max += x; region.y_min += y; region.y_max += y; region.score = null;
  }
  function stretch(region, dx, dy) {
    region.x_max = clamp(region.x_max + dx, region.x_min + 1, doc.width);
    region.y_max = clamp(region.y_max + dy, region.y_min + 1, doc.height);
    region.score = null;
  }
  function drop() {
    if (chosen < 0) return;
    remember();
    const [gone] = things().splice(chosen, 1);
    chosen = Math.min(chosen, things().length - 1);
    tell(`${gone.label} is deleted`);
    draw();
    hands.querySelectorAll(".region")[chosen]?.focus();
  }
  function add() {
    if (kind !== "regions" || doc.capability === "segmentation") { tell("a region of a segmentation has a mask, which is not drawn here", true); return; }
    remember();
    const at = second(), frame = at === null ? null : Math.round(at * (doc.frameRate || 1));
    const side = Math.min(doc.width, doc.height) / 3;
    const label = things()[chosen]?.label ?? doc.labels[0] ?? "object";
    const box = { label, x_min: Math.round((doc.width - side) / 2), y_min: Math.round((doc.height - side) / 2), x_max: Math.round((doc.width + side) / 2), y_max: Math.round((doc.height + side) / 2),
      score: null, mask: null, frame_index: frame, seconds: at };
    things().push(box);
    choose(things().length - 1);
    drawing = true;
    tell("a box is drawn: drag on the picture to place it, or move it with the arrows; r names it");
  }

  // The pointer: drag a box, its corner, or after `b` a new one.
  if (svg && kind === "regions") {
    svg.classList.add("edit");
    const point = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [clamp(at.x, 0, doc.width), clamp(at.y, 0, doc.height)];
    };
    svg.addEventListener("pointerdown", (event) => {
      const target = event.target, [x0, y0] = point(event);
      const place = target.dataset.place === undefined ? -1 : Number(target.dataset.place);
      if (!drawing && place < 0) return;
      if (place >= 0 && !drawing) choose(place, false);
      const region = movable();
      if (!region) return;
      event.preventDefault();
      remember();
      const fresh = drawing, before = copy(region);
      drawing = false;
      svg.setPointerCapture(event.pointerId);
      const drag = (moved) => {
        const [x, y] = point(moved);
        Object.assign(region, before);
        if (fresh) Object.assign(region, { x_min: Math.min(x0, x), y_min: Math.min(y0, y), x_max: Math.max(x0, x, Math.min(x0, x) + 1), y_max: Math.max(y0, y, Math.min(y0, y) + 1) });
        else if (target.classList.contains("handle")) stretch(region, x - x0, y - y0);
        else move(region, x - x0, y - y0);
        draw();
      };
      svg.addEventListener("pointermove", drag);
      svg.addEventListener("pointerup", () => svg.removeEventListener("pointermove", drag), { once: true });
    });
  }
  if (stage?.player) stage.addEventListener("drawn", () => { if (kind === "regions") draw(); });

  // --- saving ---------------------------------------------------------------------------------------------

  function buttons() {
    one("#save").firstChild.data = changed() ? "Save and next " : "Accept and next ";
    one("#undo").disabled = !past.length && !saves.length;
  }
  async function post(path, body) {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", "X-Sightflow": "1" }, body: JSON.stringify(body) });
    let told = {};
    try { told = await answer.json(); } catch { /* an empty refusal */ }
    return [answer.status, told];
  }
  async function save() {
    if (busy) return;
    busy = true;
    try {
      const clean = copy(result);
      if (kind === "text" && typeof clean.text === "string") clean.text = clean.text.trim();
      const [status, told] = await post("review/save", { uri: doc.uri, enrichment: doc.enrichment, expected, objectVersion: doc.objectVersion, fingerprint: doc.fingerprint, result: clean });
      if (status === 200) {
        saves.push({ uri: doc.uri, enrichment: doc.enrichment, before: expected, revision: told.revision, href: location.href });
        sessionStorage.setItem("sightflow-saves", JSON.stringify(saves.slice(-200)));
        tell("saved");
        location.href = one("main a[rel=next]").href;
        return;
      }
      if (status === 409) clash(told);
      else tell(`not saved: ${told.message || status}`, true);
    } catch (error) {
      tell(`not saved: the server does not answer (${error.message})`, true);
    } finally { busy = false; }
  }
  function clash(told) {
    const standing = told.standing;
    tell(`not saved: ${told.message}`, true);
    const inWords = (value) => (value.text ?? value.extracted ?? (value.regions || value.tracks || []).map((each) => kind === "regions"
      ? `${each.label} ${EDGES.map((edge) => Math.round(each[edge])).join(" ")}` : each.label).join("\n")) || "nothing";
    const column = (title, value) => make("section", {}, make("h3", {}, title), make("pre", { dir: "auto" }, value));
    conflict.hidden = false;
    conflict.replaceChildren(make("div", { className: "sides" },
      column(standing ? `${standing.by}, ${standing.at}` : "it was taken back", standing ? inWords(standing.result) : "no label"), column("yours", inWords(result))),
    make("p", { className: "actions" },
      make("button", { type: "button", id: "theirs", onclick: () => location.reload() }, "Begin with theirs"),
      make("button", { type: "button", id: "mine", onclick: () => { expected = standing ? standing.revision : 0; save(); } }, "Save yours in its place")));
    one("#theirs").focus();
  }
  async function undo() {
    while (past.length && JSON.stringify(past[past.length - 1][0]) === JSON.stringify(result)) past.pop();
    if (past.length) {
      [result, chosen] = past.pop();
      draw();
      tell("undone");
      return;
    }
    const last = saves.pop();
    if (!last || busy) return;
    busy = true;
    try {
      const [status, told] = await post("review/undo", { uri: last.uri, enrichment: last.enrichment, expected: last.revision, revision: last.before });
      if (status === 200) {
        sessionStorage.setItem("sightflow-saves", JSON.stringify(saves));
        if (last.href === location.href) location.reload();
        else location.href = last.href;
      } else tell(`not undone: ${told.message || status}`, true);
    } catch (error) { tell(`not undone: the server does not answer (${error.message})`, true); } finally { busy = false; }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey) {
      if (event.key === "Enter") { event.preventDefault(); save(); }
      return;
    }
    if (event.target.matches("textarea, select, input:not([type=range])")) return;
    const far = event.shiftKey ? 10 : 1, by = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
    const acts = { a: save, z: undo, d: drop, b: add, Delete: drop, j: () => choose(chosen + 1), k: () => choose(chosen - 1),
      e: () => one("#text")?.focus(), r: () => { const field = one("#label"); if (field && !field.disabled) { field.focus(); field.select(); } } };
    let act = acts[event.key];
    if (by && chosen >= 0 && kind === "regions" && !event.target.matches("input")) {
      act = () => { const region = movable(); if (region) { remember(); (event.altKey ? stretch : move)(region, ...by); draw(); } };
    }
    if (act) { event.preventDefault(); act(); }
  });
  one("#save").addEventListener("click", save);
  one("#undo").addEventListener("click", undo);
  new ResizeObserver(() => { if (kind === "regions") draw(); }).observe(stage);
  draw();
})();
