"use strict";
// Shows what the verifier knew: everything comes from the JSON in #data, and goes into the page as
// text, never as markup.
(() => {
  const programs = JSON.parse(document.getElementById("data").textContent);
  const TABS = ["paths", "visits", "history", "flow"];
  const MOST_ROWS = 500;
  const MOST_COLUMNS = 8;
  const MOST_HISTORY = 60;
  const views = new Map();
  let view = null;

  function make(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  // The recorded walk of one program.
  class Walk {
    constructor(data) {
      Object.assign(this, data);
      this.byPath = this.paths.map(() => []);
      this.byPc = new Map();
      this.index = new Map(this.insns.map((insn, at) => [insn[0], at]));
      this.steps.forEach((step, at) => {
        const [, path, pc] = step;
        if (path >= 0) this.byPath[path].push(at);
        if (!this.byPc.has(pc)) this.byPc.set(pc, []);
        this.byPc.get(pc).push(at);
      });
      this.cache = new Map();
    }

    pc(at) { return this.steps[at][2]; }
    number(at) { return this.steps[at][0]; }
    path(at) { return this.steps[at][1]; }
    insn(pc) { return this.insns[this.index.get(pc)]; }
    text(pc) { const insn = this.insn(pc); return insn ? insn[1] : ""; }

    before(at) {
      const own = this.byPath[this.path(at)] || [];
      const place = own.indexOf(at);
      if (place > 0) return own[place - 1];
      const [parent, fork] = this.paths[this.path(at)] || [-1, -1];
      if (parent < 0) return -1;
      const known = this.byPath[parent].filter((one) => this.number(one) <= fork);
      return known.length ? known[known.length - 1] : -1;
    }

    after(at) {
      const own = this.byPath[this.path(at)] || [];
      const place = own.indexOf(at);
      return place >= 0 && place + 1 < own.length ? own[place + 1] : -1;
    }

    // Whether two steps followed one another, with none left out between them.
    adjacent(first, second) {
      if (this.path(first) === this.path(second)) return this.number(second) === this.number(first) + 1;
      return this.paths[this.path(second)][1] === this.number(first);
    }

    chain(at) {
      const chain = [];
      for (let one = at; one >= 0; one = this.before(one)) chain.push(one);
      return chain.reverse();
    }

    state(at) {
      if (this.cache.has(at)) return this.cache.get(at);
      const pending = [];
      let one = at;
      let known = {};
      while (true) {
        pending.push(one);
        if (this.steps[one][4]) break;
        one = this.before(one);
        if (one < 0) break;
        if (this.cache.has(one)) { known = this.cache.get(one); break; }
      }
      const state = { ...known };
      for (const each of pending.reverse()) {
        const changes = this.steps[each][5];
        if (this.steps[each][4]) for (const place of Object.keys(state)) delete state[place];
        for (let i = 0; i < changes.length; i += 2) {
          const place = this.places[changes[i]];
          if (changes[i + 1] < 0) delete state[place];
          else state[place] = this.values[changes[i + 1]];
        }
      }
      if (this.cache.size > 400) this.cache.clear();
      this.cache.set(at, state);
      return state;
    }

    sameVisits(at, everywhere) {
      const all = this.byPc.get(this.pc(at)) || [];
      if (everywhere) return all;
      const chain = new Set(this.chain(at));
      for (let one = this.after(at); one >= 0; one = this.after(one)) chain.add(one);
      return all.filter((one) => chain.has(one));
    }
  }

  function order(place) {
    const [frame, name] = place.includes(":") ? place.split(":") : ["0", place];
    const group = name[0] === "r" && name !== "refs" ? 0 : name.startsWith("fp") ? 1 : 2;
    const number = group === 0 ? Number(name.slice(1)) : group === 1 ? -Number(name.slice(2)) : 0;
    return [-Number(frame), group, number];
  }

  function sorted(places) {
    return [...places].sort((a, b) => {
      const [x, y] = [order(a), order(b)];
      return x[0] - y[0] || x[1] - y[1] || x[2] - y[2];
    });
  }

  const frameOf = (place) => (place.includes(":") ? Number(place.split(":")[0]) : 0);
  const nameOf = (place) => place.split(":").pop();

  class View {
    constructor(root, data) {
      this.root = root;
      this.walk = new Walk(data);
      this.at = -1;
      this.pc = -1;
      this.place = "";
      this.tab = "paths";
      this.everywhere = false;
      this.differing = true;
      this.find = (name) => root.querySelector(`[data-part=${name}]`);
      this.build();
    }

    build() {
      const { walk } = this;
      this.find("tools").hidden = false;
      const bad = new Set(walk.findings);
      const listing = this.find("insns");
      this.rows = new Map();
      for (const [pc, text, line, , label] of walk.insns) {
        if (label) listing.append(make("div", { class: "row label" }, `${label}:`));
        const count = walk.visits[pc] || 0;
        const row = make(
          "div",
          {
            class: `row${bad.has(pc) ? " at" : ""}${count ? "" : " never"}`,
            title: count ? `looked at ${plural(count, "time")}` : "never looked at",
            onclick: () => this.select(pc),
          },
          make("span", { class: "no" }, String(pc)),
          make("span", { class: "count" }, count > 1 ? `×${count}` : ""),
          make("span", {}, text),
        );
        row.dataset.line = line;
        row.dataset.pc = pc;
        this.rows.set(pc, row);
        listing.append(row);
      }
      if (walk.hidden) listing.append(make("div", { class: "note" }, `${plural(walk.hidden, "more instruction")}`));
      this.buildSource(bad);
      this.buildPaths();
      this.buildFlow();
      for (const button of this.root.querySelectorAll("[data-go]"))
        button.addEventListener("click", () => this.go(button.dataset.go));
      for (const button of this.root.querySelectorAll("[data-pc]"))
        if (button.tagName === "BUTTON") button.addEventListener("click", () => this.select(Number(button.dataset.pc), true));
      for (const button of this.root.querySelectorAll("[role=tab]"))
        button.addEventListener("click", () => this.showTab(button.dataset.tab));
      listing.addEventListener("keydown", (event) => this.arrows(event));
      if (walk.steps.length) {
        this.showStep(this.start());
        this.blame();
      } else this.find("state").append(make("div", { class: "note" }, "No states were kept for this program."));
      this.showTab(this.tab);
    }

    buildSource(bad) {
      const pane = this.find("source");
      const { walk } = this;
      this.sources = new Map();
      const at = new Map();
      for (const [pc, , line] of walk.insns)
        if (line >= 0) {
          if (!at.has(line)) at.set(line, []);
          at.get(line).push(pc);
        }
      if (!walk.lines.length) {
        pane.append(make("div", { class: "note" }, "The object has no line information (compile with -g)."));
        return;
      }
      const files = new Map();
      walk.lines.forEach(([file, number, text], index) => {
        if (!files.has(file)) files.set(file, new Map());
        const known = files.get(file);
        if (!known.has(number)) known.set(number, { text, indices: [] });
        known.get(number).indices.push(index);
      });
      for (const [file, lines] of files) {
        pane.append(make("div", { class: "row file" }, file));
        for (const [number, { text, indices }] of [...lines].sort((a, b) => a[0] - b[0])) {
          const places = indices.flatMap((index) => at.get(index) || []);
          const row = make(
            "div",
            { class: `row${places.some((pc) => bad.has(pc)) ? " at" : ""}`, onclick: () => this.select(places[0]) },
            make("span", { class: "no" }, String(number)),
            make("span", {}, text),
          );
          for (const index of indices) this.sources.set(index, row);
          pane.append(row);
        }
      }
    }

    buildPaths() {
      const { walk } = this;
      const list = this.find("paths");
      if (!walk.paths.length) {
        list.append(make("p", { class: "soft" }, "Nothing was explored: the program's structure is refused before."));
        return;
      }
      const children = walk.paths.map(() => []);
      walk.paths.forEach(([parent], path) => { if (parent >= 0) children[parent].push(path); });
      this.pathRows = new Map();
      let shown = 0;
      const tree = make("ul", { class: "tree" });
      const pending = [];
      walk.paths.forEach(([parent], path) => { if (parent < 0) pending.push([path, tree]); });
      pending.reverse();
      while (pending.length && shown < MOST_ROWS) {
        const [path, under] = pending.pop();
        const [parent, fork, pc, end, endPc, steps] = walk.paths[path];
        const own = walk.byPath[path];
        const origin = parent >= 0 ? walk.steps.find((step) => step[0] === fork) : undefined;
        const from = parent < 0 ? `starts at ${pc}` : origin ? `from ${origin[2]} to ${pc}` : `to ${pc}`;
        const row = make(
          "div",
          {},
          own.length
            ? make("button", { class: "link", onclick: () => this.showStep(own[0], true) }, `path ${path}`)
            : make("span", { class: "soft" }, `path ${path}`),
          make("span", { class: "mono" }, from),
          make("span", { class: "soft" }, plural(steps, "step")),
          make("button", { class: `end ${end}`, disabled: !own.length, onclick: () => this.showStep(own[own.length - 1], true) }, this.ending(end, endPc)),
        );
        const item = make("li", {}, row);
        this.pathRows.set(path, item);
        under.append(item);
        shown += 1;
        const below = children[path].sort((a, b) => walk.paths[b][1] - walk.paths[a][1]);
        if (below.length) {
          // A path and the arms that leave it stay at one depth where there is one arm only.
          const inner = below.length > 1 || parent < 0 ? make("ul", {}) : under;
          if (inner !== under) item.append(inner);
          for (const one of below) pending.push([one, inner]);
        }
      }
      list.append(tree);
      const more = walk.allPaths - shown;
      if (more > 0) list.append(make("p", { class: "soft" }, `${plural(more, "more path")} not listed.`));
    }

    ending(end, pc) {
      if (end === "exit") return `ends at ${pc}`;
      if (end === "covered") return `covered at ${pc}`;
      if (end === "refused") return `refused at ${pc}`;
      return "not followed to its end";
    }

    buildFlow() {
      const bad = new Set(this.walk.findings);
      this.marks = new Map();
      for (const text of this.find("flow").querySelectorAll("svg text")) {
        const number = text.querySelector("tspan.pc");
        const pc = number ? Number.parseInt(number.textContent, 10) : NaN;
        if (Number.isNaN(pc)) continue;
        if (bad.has(pc)) text.classList.add("bad");
        this.marks.set(pc, text);
        text.addEventListener("click", () => this.select(pc));
      }
    }

    // What an error is about is first the register that its instruction goes through.
    blame() {
      if (!this.walk.errors.length || this.at < 0) return;
      const insn = this.walk.insn(this.pc);
      const state = this.walk.state(this.at);
      const depth = this.walk.steps[this.at][3];
      const places = (insn ? insn[3] : []).map((n) => `${depth ? `${depth}:` : ""}r${n}`).filter((place) => state[place] !== undefined);
      if (places.length) { this.place = places[0]; this.tab = "history"; this.refresh(); }
    }

    start() {
      const { walk } = this;
      if (walk.errors.length) {
        const number = walk.errors[0][1];
        const at = walk.steps.findIndex((step) => step[0] === number);
        if (at >= 0) return at;
      }
      return 0;
    }

    select(pc, tell) {
      const { walk } = this;
      const visits = walk.byPc.get(pc) || [];
      if (!visits.length) {
        this.pc = pc;
        this.at = -1;
        this.refresh();
        return;
      }
      let best = visits[0];
      if (tell) {
        // What a finding tells of: the visit before the error that comes last.
        const error = walk.errors.find(([at]) => at === this.findingPc) || walk.errors[0];
        for (const at of visits) if (error && walk.number(at) <= error[1]) best = at;
      } else if (this.at >= 0) {
        const near = new Set(walk.sameVisits(visits[0], true));
        const chain = walk.chain(this.at).filter((at) => near.has(at));
        if (chain.length) best = chain[chain.length - 1];
        else {
          let next = -1;
          for (let one = walk.after(this.at); one >= 0 && next < 0; one = walk.after(one)) if (near.has(one)) next = one;
          best = next >= 0 ? next : visits.find((at) => at > this.at) ?? visits[visits.length - 1];
        }
      }
      this.showStep(best);
    }

    showStep(at, scroll) {
      this.at = at;
      this.pc = this.walk.pc(at);
      this.refresh(scroll);
    }

    go(where) {
      const { walk } = this;
      let to = -1;
      if (where === "error") to = this.start();
      else if (where === "start") to = walk.steps.length ? 0 : -1;
      else if (this.at >= 0) {
        if (where === "next") to = walk.after(this.at);
        if (where === "previous") to = walk.before(this.at);
        if (where === "visit+" || where === "visit-") {
          const visits = walk.sameVisits(this.at, true);
          to = visits[visits.indexOf(this.at) + (where === "visit+" ? 1 : -1)] ?? -1;
        }
      }
      if (to >= 0) this.showStep(to);
    }

    arrows(event) {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const insn = this.walk.insns[(this.walk.index.get(this.pc) ?? -1) + step];
      if (insn) this.select(insn[0]);
    }

    refresh() {
      const { walk, at } = this;
      for (const row of this.root.querySelectorAll(".row.here, .tree .on, .picture .hit")) row.classList.remove("here", "on", "hit");
      const row = this.rows.get(this.pc);
      if (row) {
        row.classList.add("here");
        reveal(row);
        const source = this.sources.get(Number(row.dataset.line));
        if (source) { source.classList.add("here"); reveal(source); }
      }
      const mark = this.marks.get(this.pc);
      if (mark) mark.classList.add("hit");
      const where = this.find("where");
      if (at < 0) where.replaceChildren(make("b", {}, `instruction ${this.pc}`), " is on no path that was kept");
      else {
        const path = walk.path(at);
        const visits = walk.sameVisits(at, true);
        const times = visits.length > 1 ? `, visit ${visits.indexOf(at) + 1} of ${visits.length}` : "";
        where.replaceChildren(
          "before ", make("b", {}, `instruction ${this.pc}`), `${times} · step ${(walk.number(at) + 1).toLocaleString("en")} of ${walk.allSteps.toLocaleString("en")}`,
          path >= 0 ? ` · path ${path}` : "",
        );
        const item = this.pathRows && this.pathRows.get(path);
        if (item) item.classList.add("on");
        window.history.replaceState(null, "", `#${this.root.id}-step-${walk.number(at)}`);
      }
      for (const button of this.root.querySelectorAll("[data-go]")) {
        const go = button.dataset.go;
        if (go === "next") button.disabled = at < 0 || walk.after(at) < 0;
        if (go === "previous") button.disabled = at < 0 || walk.before(at) < 0;
        if (go === "visit+" || go === "visit-") {
          const visits = at < 0 ? [] : walk.sameVisits(at, true);
          const place = visits.indexOf(at);
          button.disabled = go === "visit+" ? place + 1 >= visits.length : place <= 0;
        }
      }
      this.showState();
      if (this.tab === "visits") this.showVisits();
      if (this.tab === "history") this.showHistory();
    }

    showState() {
      const { walk, at } = this;
      const pane = this.find("state");
      if (at < 0) {
        const count = walk.visits[this.pc] || 0;
        pane.replaceChildren(make("div", { class: "note" }, count ? "Its states were not kept." : "No path comes here."));
        return;
      }
      const state = walk.state(at);
      const next = walk.after(at);
      const follows = next >= 0 && walk.adjacent(at, next);
      const later = follows ? walk.state(next) : state;
      const table = make("table", { class: "state" });
      let frame = -1;
      for (const place of sorted(new Set([...Object.keys(state), ...Object.keys(later)]))) {
        if (frameOf(place) !== frame && walk.steps[at][3] + frameOf(place) > 0) {
          frame = frameOf(place);
          table.append(make("tr", { class: "frame" }, make("th", { colSpan: 2 }, frame === walk.steps[at][3] ? `frame ${frame}, running` : `frame ${frame}`)));
        }
        const [now, then] = [state[place], later[place]];
        const changed = now !== then;
        table.append(
          make(
            "tr",
            { class: `${changed ? "new" : ""}${place === this.place ? " picked" : ""}` },
            make("th", { scope: "row" }, make("button", { title: "its history", onclick: () => this.pick(place) }, nameOf(place))),
            make("td", {}, now ?? "", ...(changed ? [now === undefined ? "→ " : make("div", {}, "→ "), then ?? "gone"] : [])),
          ),
        );
      }
      const rest = [];
      if (at >= 0 && next < 0) {
        const ended = this.walk.paths[this.walk.path(at)];
        if (ended) rest.push(make("div", { class: "note" }, `The path: ${this.ending(ended[3], ended[4])}.`));
      } else if (!follows) rest.push(make("div", { class: "note" }, `${plural(walk.number(next) - walk.number(at) - 1, "step")} after this one were not kept.`));
      pane.replaceChildren(table, ...rest);
      for (const div of pane.querySelectorAll("td > div")) div.append(div.nextSibling);
    }

    pick(place) {
      this.place = place;
      this.showTab("history");
      this.showState();
    }

    showTab(name) {
      this.tab = name;
      for (const button of this.root.querySelectorAll("[role=tab]")) {
        const on = button.dataset.tab === name;
        button.setAttribute("aria-selected", String(on));
        button.tabIndex = on ? 0 : -1;
        this.find(button.dataset.tab).hidden = !on;
      }
      if (name === "visits") this.showVisits();
      if (name === "history") this.showHistory();
      if (name === "flow") { const mark = this.marks.get(this.pc); if (mark) mark.scrollIntoView({ block: "nearest", inline: "nearest" }); }
    }

    showVisits() {
      const { walk, at } = this;
      const pane = this.find("visits");
      if (at < 0) { pane.replaceChildren(make("p", { class: "soft" }, "Choose an instruction that a path comes to.")); return; }
      const all = walk.sameVisits(at, this.everywhere);
      const middle = all.indexOf(at);
      const first = Math.max(0, Math.min(middle - (MOST_COLUMNS >> 1), all.length - MOST_COLUMNS));
      const shown = all.slice(first, first + MOST_COLUMNS);
      const states = shown.map((one) => walk.state(one));
      const places = sorted(new Set(states.flatMap((state) => Object.keys(state)))).filter(
        (place) => !this.differing || shown.length < 2 || states.some((state) => state[place] !== states[0][place]),
      );
      const choice = (text, key) =>
        make("label", {}, make("input", { type: "checkbox", checked: this[key], onchange: (event) => { this[key] = event.target.checked; this.showVisits(); } }), ` ${text} `);
      const head = make("tr", {}, make("th", {}, ""));
      shown.forEach((one, i) =>
        head.append(make("th", { class: one === at ? "here" : "", scope: "col" }, make("button", { class: "link", onclick: () => this.showStep(one) }, `visit ${first + i + 1}`), ` path ${walk.path(one)}`)),
      );
      const body = make("tbody", {});
      for (const place of places) {
        const line = make("tr", {}, make("th", { scope: "row" }, frameOf(place) ? `${nameOf(place)} (frame ${frameOf(place)})` : place));
        states.forEach((state, i) => {
          const changed = i > 0 && state[place] !== states[i - 1][place];
          line.append(make("td", { class: changed ? "new" : "" }, state[place] ?? ""));
        });
        body.append(line);
      }
      pane.replaceChildren(
        make("p", {}, make("span", { class: "mono" }, `${this.pc}: ${walk.text(this.pc)}`), ` · ${plural(all.length, "visit")}${all.length > shown.length ? `, ${first + 1} to ${first + shown.length} shown` : ""} · `, choice("on all paths", "everywhere"), choice("only what differs", "differing")),
        make("div", { class: "compare" }, make("table", {}, make("thead", {}, head), body)),
        ...(places.length ? [] : [make("p", { class: "soft" }, "Nothing differs between them.")]),
      );
    }

    // What made a value: back along the path to the write, through copies, spills and loads; then,
    // one level deeper, what made each of the values that the write took.
    history(place, at, level = 0, entries = [], seen = new Set()) {
      const { walk } = this;
      const chain = walk.chain(at);
      for (let i = chain.length - 1; i > 0 && entries.length < MOST_HISTORY; i -= 1) {
        const [one, previous] = [chain[i], chain[i - 1]];
        if (!walk.adjacent(previous, one)) {
          entries.push({ at: one, place, level, gap: walk.number(one) - walk.number(previous) - 1, value: walk.state(one)[place] });
          return entries;
        }
        const [now, was] = [walk.state(one)[place], walk.state(previous)[place]];
        if (now === was) continue;
        if (seen.has(`${one} ${place}`)) return entries;
        seen.add(`${one} ${place}`);
        const written = this.writes(place, previous, one);
        const narrowed = walk.text(walk.pc(previous)).startsWith("if ");
        entries.push({ at: previous, place, level, value: now, written, narrowed });
        if (!written) continue;
        const source = this.copied(place, previous, one);
        if (source) { place = source; continue; }
        const insn = walk.insn(walk.pc(previous));
        // What a helper or the memory gives is not made of the registers that name it.
        if (!insn || /^call |= \*\(/.test(insn[1]) || level >= 6) return entries;
        const prefix = place.includes(":") ? place.slice(0, place.indexOf(":") + 1) : "";
        const sources = insn[3].map((n) => `${prefix}r${n}`).filter((name) => walk.state(previous)[name] !== undefined);
        for (const name of sources) this.history(name, previous, level + 1, entries, seen);
        return entries;
      }
      if (entries.length < MOST_HISTORY) entries.push({ at: chain[0], place, level, value: walk.state(chain[0])[place], begins: true, written: true });
      return entries;
    }

    // Whether the step `previous` wrote to `place`; else it only told more of what was there.
    writes(place, previous, one) {
      const { walk } = this;
      const text = walk.text(walk.pc(previous));
      const name = nameOf(place);
      if (walk.steps[one][3] !== walk.steps[previous][3]) return true;
      if (name.startsWith("fp")) return /^(\*|lock |call |store_release)|= (atomic|xchg|cmpxchg)/.test(text);
      if (name === "r0" && (text.startsWith("call ") || text.includes("cmpxchg"))) return true;
      return text.startsWith(`${name} `) || text.startsWith(`w${name.slice(1)} `);
    }

    // The place whose value the step `previous` copied to `place`, "" if it did something else.
    copied(place, previous, one) {
      const { walk } = this;
      const frame = frameOf(place);
      const prefix = frame ? `${frame}:` : "";
      const deeper = walk.steps[one][3] - walk.steps[previous][3];
      const text = walk.text(walk.pc(previous));
      const register = /^[rw]\d+ = [rw](\d+)$/.exec(text) || /^\*\(u\d+ \*\)\(r\d+ [+-] 0x[0-9a-f]+\) = [rw](\d+)$/.exec(text);
      const slot = /^[rw]\d+ = \*\(u\d+ \*\)\(r10 - 0x([0-9a-f]+)\)$/.exec(text);
      let source = "";
      if (deeper > 0) source = nameOf(place) === "r10" || nameOf(place)[0] !== "r" ? "" : `${frame > 1 ? `${frame - 1}:` : ""}${nameOf(place)}`;
      else if (deeper < 0) source = nameOf(place) === "r0" ? `${walk.steps[previous][3]}:r0` : "";
      else if (register) source = `${prefix}r${register[1]}`;
      else if (slot) source = `${prefix}fp-${Math.ceil(Number.parseInt(slot[1], 16) / 8) * 8}`;
      return source && walk.state(previous)[source] !== undefined ? source : "";
    }

    showHistory() {
      const { walk, at } = this;
      const pane = this.find("history");
      if (at < 0 || !this.place) {
        pane.replaceChildren(make("p", { class: "soft" }, "Click a register or a stack slot in the state to see what made its value."));
        return;
      }
      const value = walk.state(at)[this.place];
      const list = make("ol", { class: "history" });
      if (value !== undefined)
        for (const entry of this.history(this.place, at)) {
          const pc = walk.pc(entry.at);
          const insn = walk.insn(pc);
          const line = insn && insn[2] >= 0 ? walk.lines[insn[2]] : null;
          const verb = entry.gap ? `${plural(entry.gap, "step")} before this one were not kept` : entry.begins ? "known from the start" : entry.written ? "written by" : entry.narrowed ? "narrowed by" : "linked by";
          list.append(
            make(
              "li",
              { class: entry.written ? "written" : "", style: `padding-left: ${entry.level * 1.6}em` },
              make("span", { class: "why" }, verb),
              make("span", {}, make("button", { class: "link mono", onclick: () => this.showStep(entry.at) }, entry.begins ? `${pc}` : `${pc}: ${insn ? insn[1] : ""}`), line ? make("div", { class: "why" }, `${line[2].trim()} (${line[0].split("/").pop()}:${line[1]})`) : ""),
              make("span", {}, make("button", { class: "link mono", title: "its history", onclick: () => { this.place = entry.place; this.refresh(); } }, nameOf(entry.place)), ` = ${entry.value ?? "nothing"}`),
            ),
          );
        }
      pane.replaceChildren(
        make("p", {}, make("b", { class: "mono" }, nameOf(this.place)), frameOf(this.place) ? ` of frame ${frameOf(this.place)}` : "", value === undefined ? " holds nothing here." : ` before instruction ${this.pc}, newest first:`),
        list,
      );
    }
  }

  function reveal(row) {
    const pane = row.parentElement;
    const top = row.offsetTop;
    if (top < pane.scrollTop + 20 || top + row.offsetHeight > pane.scrollTop + pane.clientHeight - 20)
      pane.scrollTop = Math.max(0, top - pane.clientHeight / 2);
  }

  function show(number) {
    programs.forEach((data, at) => {
      document.getElementById(`program-${at}`).hidden = at !== number;
      const button = document.getElementById(`choose-${at}`);
      if (button) button.setAttribute("aria-current", String(at === number));
    });
    view = views.get(number) || null;
    if (!view && programs[number].insns) {
      view = new View(document.getElementById(`program-${number}`), programs[number]);
      views.set(number, view);
    }
  }

  document.addEventListener("keydown", (event) => {
    if (!view || event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const where = { j: "next", k: "previous", "]": "visit+", "[": "visit-", e: "error", s: "start" }[event.key];
    if (where) { event.preventDefault(); view.go(where); }
    const tab = TABS[Number(event.key) - 1];
    if (tab) view.showTab(tab);
    const on = event.target.getAttribute && event.target.getAttribute("role") === "tab";
    const turn = on ? { ArrowRight: 1, ArrowLeft: -1 }[event.key] : 0;
    if (turn) {
      const next = TABS[(TABS.indexOf(event.target.dataset.tab) + turn + TABS.length) % TABS.length];
      view.showTab(next);
      view.root.querySelector(`[role=tab][data-tab=${next}]`).focus();
    }
  });

  programs.forEach((data, number) => {
    const button = document.getElementById(`choose-${number}`);
    if (button) button.addEventListener("click", () => show(number));
  });
  const wanted = /^#program-(\d+)(?:-step-(\d+))?(?:-tab-(\w+))?(?:-place-(.+))?$/.exec(window.location.hash);
  const firstBad = programs.findIndex((data) => data.bad);
  show(wanted && programs[wanted[1]] ? Number(wanted[1]) : Math.max(0, firstBad));
  if (wanted && view) {
    const at = wanted[2] === undefined ? -1 : view.walk.steps.findIndex((step) => step[0] === Number(wanted[2]));
    if (at >= 0) view.showStep(at);
    if (wanted[4]) view.pick(decodeURIComponent(wanted[4]));
    else if (TABS.includes(wanted[3])) view.showTab(wanted[3]);
  }
  document.documentElement.dataset.ready = "1";
})();
