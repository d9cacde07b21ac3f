// The grid of a gallery that lies in a folder: filtered here, over one index, with its state behind the # of the address.
"use strict";
(() => {
  const PAGE = 48, HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]/;
  const { names, objects } = window.SIGHTFLOW_INDEX;
  const form = document.querySelector("form.filters"), grid = document.getElementById("grid");
  const [URI, HREF, THUMB, ALT, KIND, FAILED, ROWS] = [0, 1, 2, 3, 4, 5, 6];
  const [ENRICHMENT, CAPABILITY, SYSTEM, CAUSE, MADE, COST, LOW, HIGH, TEXT, MARKS, RUN] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
  const lower = objects.map((object) => [object[URI].toLowerCase(), object[ROWS].map((row) => row[TEXT].toLowerCase())]);
  let page = 1;

  const state = () => Object.fromEntries([...new FormData(form)].filter(([name, value]) => value.trim() && !(name === "sort" && value === "uri")));

  // All conditions are met by one and the same row, those on label and score by one and the same region.
  function matches(wanted) {
    const number = (name, column) => (wanted[name] === undefined ? null : names[column].indexOf(wanted[name]));
    const exact = [[ENRICHMENT, number("enrichment", "enrichment")], [CAPABILITY, number("capability", "capability")],
      [SYSTEM, number("system", "system")], [CAUSE, number("cause", "cause")]].filter(([, value]) => value !== null);
    const label = number("label", "label"), words = (wanted.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    const least = wanted.least === undefined ? null : Number(wanted.least), most = wanted.most === undefined ? null : Number(wanted.most);
    const region = label !== null || least !== null || most !== null;
    const fits = (row, k, place) => exact.every(([column, value]) => row[column] === value)
      && (!wanted.state || (wanted.state === "published") === (row[CAUSE] < 0))
      && (!wanted.since || row[MADE] >= wanted.since) && (!wanted.until || row[MADE].slice(0, 10) <= wanted.until)
      && (!wanted.run || row[RUN] === wanted.run)
      && words.every((word) => lower[place][0].includes(word) || lower[place][1][k].includes(word))
      && (!region || row[MARKS].some(([name, score]) => (label === null || name === label)
        && (least === null || (score !== null && score >= least)) && (most === null || (score !== null && score <= most))));
    const found = [];
    objects.forEach((object, place) => {
      if (wanted.prefix && !object[URI].startsWith(wanted.prefix)) return;
      if (wanted.kind && object[KIND] !== wanted.kind) return;
      if (object[ROWS].some((row, k) => fits(row, k, place))) found.push(object);
    });
    const best = (object, column, pick) => object[ROWS].map((row) => row[column]).filter((value) => value !== null && value !== "").sort((a, b) => (a < b ? -1 : 1)).at(pick);
    const by = {
      uri: (object) => object[URI], "-uri": (object) => object[URI], newest: (object) => best(object, MADE, -1), oldest: (object) => best(object, MADE, 0),
      score: (object) => best(object, LOW, 0), "-score": (object) => best(object, HIGH, -1), "-cost": (object) => object[ROWS].reduce((sum, row) => sum + row[COST], 0),
    }[wanted.sort || "uri"];
    const down = /^-|newest/.test(wanted.sort || "");
    return found.map((object) => [by(object), object]).sort(([a], [b]) => {
      if (a === b) return 0;
      if (a === undefined || b === undefined) return a === undefined ? 1 : -1;
      return (a < b) === down ? 1 : -1;
    }).map(([, object]) => object);
  }

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) fill(made, text);
    return made;
  }
  // What steers a reader's eye is shown as a mark.
  function fill(into, text) {
    for (const character of text) {
      const code = character.codePointAt(0);
      if (HIDDEN.test(character) && !(code > 0xffff && code < 0xe0000)) {
        const sign = document.createElement("span");
        sign.className = "hidden-character";
        sign.textContent = `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
        into.append(sign);
      } else if (into.lastChild?.nodeType === Node.TEXT_NODE) into.lastChild.data += character;
      else into.append(character);
    }
    into.dir = "auto";
  }

  function card(object) {
    const item = element("li", object[FAILED] ? "card failed" : "card"), link = element("a", "picture");
    link.href = object[HREF];
    if (object[THUMB]) {
      const image = element("img");
      Object.assign(image, { src: object[THUMB], alt: object[ALT], loading: "lazy", decoding: "async", width: 240, height: 180 });
      link.append(image);
    } else link.append(element("span", "none", `no picture: ${object[ALT]}`));
    if (object[KIND] === "video") link.append(element("span", "kind", "video"));
    item.append(link, element("p", "name", object[URI].replace(/\/+$/, "").split("/").pop()));
    const list = element("dl");
    const rows = [...object[ROWS]].sort((a, b) => (a[CAUSE] >= 0) - (b[CAUSE] >= 0) || (names.enrichment[a[ENRICHMENT]] < names.enrichment[b[ENRICHMENT]] ? -1 : 1));
    for (const row of rows.slice(0, 6)) {
      const line = element("div", row[CAUSE] >= 0 ? "bad" : ""), said = element("dd");
      if (row[CAUSE] >= 0) fill(said, `failed: ${names.cause[row[CAUSE]]}`);
      else if (row[MARKS].length) {
        const counts = new Map();
        for (const [label] of row[MARKS]) counts.set(label, (counts.get(label) || 0) + 1);
        for (const [label, count] of [...counts].sort((a, b) => b[1] - a[1]).slice(0, 6)) {
          said.append(element("span", "label", names.label[label] + (count > 1 ? ` ×${count}` : "")), " ");
        }
      } else fill(said, row[TEXT].slice(0, 160) || "nothing");
      line.append(element("dt", "", names.enrichment[row[ENRICHMENT]]), said);
      list.append(line);
    }
    item.append(list);
    return item;
  }

  function show() {
    const began = performance.now(), found = matches(state());
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages);
    grid.replaceChildren(...found.slice((page - 1) * PAGE, page * PAGE).map(card));
    document.getElementById("count").textContent = `${found.length.toLocaleString("en")} object${found.length === 1 ? "" : "s"}`;
    document.getElementById("none")?.remove();
    const pager = document.getElementById("pager"), turn = (rel, name, to) => {
      const link = element("a", "button", name);
      link.rel = rel;
      link.href = `#${new URLSearchParams({ ...state(), page: to })}`;
      return link;
    };
    pager.replaceChildren(...(page > 1 ? [turn("prev", "Previous", page - 1)] : []),
      ...(pages > 1 ? [element("span", "", `page ${page} of ${pages}`)] : []), ...(page < pages ? [turn("next", "Next", page + 1)] : []));
    grid.dataset.milliseconds = performance.now() - began;
  }

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    page = Number(given.get("page")) || 1;
    for (const field of form.elements) {
      if (!field.name) continue;
      field.value = given.get(field.name) ?? (field.name === "sort" ? "uri" : "");
      if (given.has(field.name)) field.closest("details")?.setAttribute("open", "");
    }
    show();
  }
  function change() {
    page = 1;
    const wanted = new URLSearchParams(state()).toString();
    history.replaceState(null, "", wanted ? `#${wanted}` : "#");
    show();
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); change(); });
  form.addEventListener("input", change);
  window.addEventListener("hashchange", read);
  if (location.hash.length > 1) read();
})();
