// What the pages do by themselves: labels of a readable size, layers, tracks over a playing video, keys.
// A classic script, which a page that lies in a folder (file:) may load too. Nothing here makes HTML of text.
"use strict";
(() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const one = (what, within = document) => within.querySelector(what);
  const SVG = "http://www.w3.org/2000/svg";

  // --- labels in the size of the screen, within the picture -----------------------------------------

  function place(text, x, y, stage) {
    const unit = stage.unit, size = 13 * unit, width = Number(stage.dataset.width);
    const length = text.getComputedTextLength ? text.getComputedTextLength() : 0;
    text.setAttribute("x", Math.max(0, Math.min(x, width - length)));
    text.setAttribute("y", y - 4 * unit > size ? y - 4 * unit : Math.min(y + size + 2 * unit, Number(stage.dataset.height)));
  }

  // What two models say of the same place stands one below the other.
  function apart(text, taken, stage) {
    const x = Number(text.getAttribute("x")), width = text.getComputedTextLength ? text.getComputedTextLength() : 0, line = 15 * stage.unit;
    let y = Number(text.getAttribute("y"));
    const hides = ([left, right, at]) => x < right && left < x + width && Math.abs(at - y) < line * 0.9;
    for (let tries = 0; tries < 5 && taken.some(hides) && y + line <= Number(stage.dataset.height); tries += 1) y += line;
    text.setAttribute("y", y);
    taken.push([x, x + width, y]);
  }

  function fit(stage) {
    const svg = one("svg.over", stage);
    if (!svg || !stage.clientWidth) return;
    stage.unit = Number(stage.dataset.width) / stage.clientWidth;
    svg.style.setProperty("--unit", stage.unit);
    const taken = [];
    for (const shape of all(".shape", svg)) {
      const box = one(".box", shape), text = one("text", shape);
      if (!box || !text) continue;
      place(text, Number(box.getAttribute("x")), Number(box.getAttribute("y")), stage);
      apart(text, taken, stage);
    }
  }

  // --- a shape and its entry in the list know each other ---------------------------------------------

  function mark(name, on) {
    for (const shape of all(".shape")) {
      if (shape.dataset.shape === name || shape.dataset.track === name) {
        shape.classList.toggle("active", on);
        shape.closest(".over").classList.toggle("some", on);
      }
    }
  }
  for (const entry of all(".region")) {
    const name = entry.dataset.shape || entry.dataset.track;
    for (const event of ["mouseenter", "focus"]) entry.addEventListener(event, () => mark(name, true));
    for (const event of ["mouseleave", "blur"]) entry.addEventListener(event, () => mark(name, false));
  }
  for (const box of all(".layers input")) {
    box.addEventListener("change", () => {
      for (const layer of all(".layer")) if (layer.dataset.layer === box.dataset.layer) layer.classList.toggle("off", !box.checked);
    });
  }

  // --- a picture that cannot be had says why ----------------------------------------------------------

  for (const image of all(".stage img, .card img")) {
    const tell = () => {
      const said = document.createElement("p");
      said.className = "none";
      said.textContent = "no picture";
      image.replaceWith(said);
      if (location.protocol !== "file:") {
        fetch(image.src).then((answer) => answer.text()).then((text) => { said.textContent = `no picture: ${text.slice(0, 200)}`; }).catch(() => {});
      }
    };
    if (image.complete && image.src && !image.naturalWidth) tell();
    else image.addEventListener("error", tell, { once: true });
  }

  // --- videos: what is drawn is of the frame that is on the screen --------------------------------------

  class Player {
    constructor(stage) {
      this.stage = stage;
      this.video = one("video", stage);
      this.svg = one("svg.over", stage);
      const bar = one(`.scrubber[data-for="${stage.id}"]`);
      this.range = one("input", bar);
      this.output = one("output", bar);
      this.button = one('[data-act="play"]', bar);
      this.step = 1 / Number(this.range.dataset.rate);
      const data = one(`script.tracks[data-for="${stage.id}"]`);
      this.layers = data ? Object.entries(JSON.parse(data.textContent)) : [];
      this.shown = new Map();
      this.timed = all(".shape[data-seconds]", stage).map((shape) => [Number(shape.dataset.seconds), shape]);
      bar.addEventListener("click", (event) => {
        const act = event.target.closest("button")?.dataset.act;
        if (act === "play") this.toggle();
        if (act === "back") this.move(-1);
        if (act === "on") this.move(1);
      });
      this.range.addEventListener("input", () => this.seek(Number(this.range.value)));
      const video = this.video;
      video.addEventListener("loadedmetadata", () => { if (Number.isFinite(video.duration)) this.range.max = video.duration; });
      video.addEventListener("play", () => { this.button.textContent = "Pause"; });
      video.addEventListener("pause", () => { this.button.textContent = "Play"; });
      video.addEventListener("error", () => this.stills());
      if (video.error) this.stills();
      else if (video.requestVideoFrameCallback) {
        const each = (_, frame) => { this.draw(frame.mediaTime); video.requestVideoFrameCallback(each); };
        video.requestVideoFrameCallback(each);
      } else video.addEventListener("timeupdate", () => this.draw(video.currentTime));
      this.draw(0);
    }
    // A video that the browser cannot play is shown frame by frame.
    stills() {
      if (this.image || !this.video.dataset.still) return;
      this.image = document.createElement("img");
      this.image.alt = this.video.getAttribute("aria-label");
      this.image.addEventListener("load", () => this.draw(this.wanted));
      this.video.replaceWith(this.image);
      this.button.disabled = true;
      this.seek(0);
    }
    seek(seconds) {
      const last = Number(this.range.max) || 0;
      this.wanted = Math.max(0, Math.min(seconds, last));
      if (this.image) this.image.src = `${this.video.dataset.still}&t=${this.wanted.toFixed(3)}`;
      else this.video.currentTime = this.wanted;
    }
    get now() { return this.image ? this.wanted : this.video.currentTime; }
    move(frames) { if (!this.image) this.video.pause(); this.seek(this.now + frames * this.step); }
    toggle() { if (!this.image) { if (this.video.paused) this.video.play(); else this.video.pause(); } }
    draw(seconds) {
      this.stage.dataset.time = seconds;
      this.output.textContent = `${seconds.toFixed(2)} s`;
      if (document.activeElement !== this.range || this.video.paused === false) this.range.value = seconds;
      const latest = Math.max(-1, ...this.timed.map(([at]) => at).filter((at) => at <= seconds + this.step / 2));
      for (const [at, shape] of this.timed) shape.classList.toggle("off", at !== latest);
      for (const [name, tracks] of this.layers) for (const track of tracks) this.track(name, track, seconds);
      this.stage.dispatchEvent(new Event("drawn"));
    }
    track(name, track, seconds) {
      const key = `${name}-${track.id}`, found = where(track.points, seconds, this.step / 2);
      let shape = this.shown.get(key);
      if (!found) { shape?.classList.add("off"); return; }
      if (!shape) {
        shape = document.createElementNS(SVG, "g");
        shape.setAttribute("class", `shape c${track.colour}`);
        shape.dataset.track = key;
        const box = document.createElementNS(SVG, "rect"), text = document.createElementNS(SVG, "text");
        const mask = document.createElementNS(SVG, "path");
        box.setAttribute("class", "box");
        mask.setAttribute("class", "mask");
        text.textContent = track.label;
        shape.append(box, mask, text);
        all(".layer", this.svg).find((layer) => layer.dataset.layer === name).append(shape);
        this.shown.set(key, shape);
      }
      const [[x0, y0, x1, y1], exact, path] = found, [box, mask] = shape.children;
      mask.setAttribute("d", path || "");
      for (const [edge, value] of [["x", x0], ["y", y0], ["width", x1 - x0], ["height", y1 - y0]]) box.setAttribute(edge, value);
      shape.classList.remove("off");
      shape.classList.toggle("between", !exact);
      place(shape.lastChild, x0, y0, this.stage);
    }
  }

  // Where a track is at a time: at a point that was said, or between two of them; nowhere before, after or in a hole.
  // A mask is drawn at its own point alone.
  function where(points, seconds, near) {
    if (!points.length) return null;
    const usual = points.length > 1 ? (points[points.length - 1][0] - points[0][0]) / (points.length - 1) : 1;
    let after = points.findIndex((point) => point[0] >= seconds - near);
    if (after < 0) {
      const last = points[points.length - 1];
      return seconds < last[0] + usual - near ? [last.slice(1, 5), false] : null;
    }
    const next = points[after];
    if (Math.abs(next[0] - seconds) <= near) return [next.slice(1, 5), !next[5], next[6]];
    const before = points[after - 1];
    if (!before || next[0] - before[0] > 3 * usual) return null;
    const share = (seconds - before[0]) / (next[0] - before[0]);
    return [[1, 2, 3, 4].map((edge) => before[edge] + (next[edge] - before[edge]) * share), false];
  }

  for (const stage of all(".stage")) {
    fit(stage);
    new ResizeObserver(() => fit(stage)).observe(stage);
    if (one("video", stage)) stage.player = new Player(stage);
  }
  const player = () => one(".stage")?.player;
  for (const entry of all("button[data-seconds]")) {
    entry.addEventListener("click", () => player()?.seek(Number(entry.dataset.seconds)));
  }

  // --- keys ---------------------------------------------------------------------------------------------

  const follow = (what) => one(what)?.click();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const cards = all(".card .picture"), at = cards.indexOf(document.activeElement);
    const acts = {
      "/": () => one("input[type=search]")?.focus(),
      n: () => follow("main a[rel=next]"), p: () => follow("main a[rel=prev]"), u: () => follow("main a[rel=up]"),
      ",": () => player()?.move(-1), ".": () => player()?.move(1),
    };
    if (player() && event.key === " " && !event.target.matches("button, summary, a")) acts[" "] = () => player().toggle();
    if (cards.length && event.key.startsWith("Arrow") && !event.target.matches("input")) {
      const row = cards.filter((card) => card.getBoundingClientRect().top === cards[0].getBoundingClientRect().top).length;
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
      acts[event.key] = () => cards[at < 0 ? 0 : Math.max(0, Math.min(cards.length - 1, at + by))].focus();
    }
    if (/^[1-9]$/.test(event.key)) acts[event.key] = () => all(".layers input")[Number(event.key) - 1]?.click();
    if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
  });
})();
