"use strict";
// Draws a timeline: everything comes from the JSON in #data, and goes into the page as text or as
// pixels, never as markup. Items are rows of numbers; places are indices of (step, time) pairs.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const T = data.texts;
  const LABELS = 132, AXIS = 26, HOST = 30, PROGRAM = 34, CQ = 50, ROW = 27, BAR = 9, GAP = 8;
  const MOST_CALLS = 400, MOST_ARROWS = 300, MOST_WAITERS = 40, NEAR = 7;
  const $ = (id) => document.getElementById(id);
  const view = $("view"), canvas = $("picture"), pen = canvas.getContext("2d");

  // --- items ------------------------------------------------------------------------------------

  const sum = (list) => { let all = 0; return Float64Array.from(list, (one) => (all += one)); };
  const steps = sum(data.steps), times = sum(data.times);
  const LAST = data.end;
  const items = new Map();
  const record = (kind, names) => data[`${kind}s`].map((row) => {
    const item = { kind };
    names.forEach((name, at) => { item[name] = row[at]; });
    items.set(item.id, item);
    return item;
  });
  const requests = record("request", ["id", "row", "number", "begin", "started", "end", "opcode", "origin", "by", "cq", "userData", "flags", "fields", "chain", "behind", "outcome", "quiet", "cqes", "ring"]);
  const runs = record("run", ["id", "program", "begin", "end", "request", "number", "slot", "insns", "outcome", "fault", "line"]);
  const calls = record("call", ["id", "run", "begin", "text", "line"]);
  const parks = record("park", ["id", "request", "program", "begin", "end", "cq", "wanted", "held", "by"]);
  const hosts = record("host", ["id", "begin", "end", "cq", "wanted", "held", "late"]);
  const cqes = record("cqe", ["id", "cq", "begin", "entered", "end", "held", "left", "userData", "outcome", "flags", "fate", "origin", "request", "source", "reaper"]);
  const marks = record("mark", ["id", "begin", "word", "text", "request", "cq"]);
  for (const one of [...calls, ...marks]) one.end = one.begin;
  const ordered = [...items.values()].sort((a, b) => a.begin - b.begin || a.id - b.id);
  ordered.forEach((item, at) => { item.order = at; });
  const byNumber = new Map(requests.map((one) => [one.number, one]));
  const programOf = new Map();
  for (const run of runs) if (!programOf.has(run.request)) programOf.set(run.request, run.program);
  const callsOf = new Map();
  for (const call of calls) { if (!callsOf.has(call.run)) callsOf.set(call.run, []); callsOf.get(call.run).push(call); }
  const causes = new Map(), effects = new Map();
  const arrows = data.arrows.map(([kind, at, source, target]) => ({ kind: data.arrowKinds[kind], at, source: items.get(source), target: items.get(target) }));
  for (const arrow of arrows) {
    for (const [of, end] of [[causes, arrow.target], [effects, arrow.source]]) {
      if (!of.has(end.id)) of.set(end.id, []);
      of.get(end.id).push(arrow);
    }
  }

  const finish = (item) => (item.end >= 0 ? item.end : LAST);
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const clock = (at) => `${(times[at] / 1e6).toFixed(times[LAST] < 1e7 ? 6 : 3)} ms`;

  const cqNames = new Map(data.lanes.filter(([kind]) => kind === "cq").map(([, name, cq]) => [cq, T[name]]));
  const cqName = (cq) => (cqNames.has(cq) ? cqNames.get(cq) : `CQ ${cq}`);

  function title(item) {
    if (item.kind === "request") {
      const program = programOf.get(item.number);
      return `request ${item.number}: ${T[item.opcode]}${program === undefined ? "" : ` ${T[program]}`}${item.ring ? ` on ${T[item.ring]}` : ""}`;
    }
    if (item.kind === "run") return `${T[item.program]}, run ${item.number} of request ${item.request}`;
    if (item.kind === "call") return T[item.text];
    if (item.kind === "park") return `request ${item.request} (${T[item.program]}) waits for ${plural(item.wanted, "CQE")} on ${cqName(item.cq)}`;
    if (item.kind === "host") return item.wanted ? `the host waits for ${plural(item.wanted, "CQE")} on ${cqName(item.cq)}` : "the host waits until no request is in flight";
    if (item.kind === "cqe") return `CQE on ${cqName(item.cq)}: ${T[item.outcome]}, ${item.request >= 0 ? `of request ${item.request}` : `emitted by ${T[item.origin]}`}`;
    return `${T[item.word]}: ${T[item.text]}`;
  }

  // --- lanes ------------------------------------------------------------------------------------

  const rows = 1 + requests.reduce((most, one) => Math.max(most, one.row), -1);
  const perRow = (list, rowOf) => {
    const found = Array.from({ length: rows }, () => []);
    for (const one of list) { const row = rowOf(one); if (row !== undefined) found[row].push(one); }
    return found;
  };
  const rowOfNumber = (number) => (byNumber.has(number) ? byNumber.get(number).row : undefined);
  const requestRows = perRow(requests, (one) => one.row);
  const runRows = perRow(runs, (one) => rowOfNumber(one.request));
  const parkRows = perRow(parks, (one) => rowOfNumber(one.request));
  let high = AXIS;
  const lanes = data.lanes.map(([kind, name, cq]) => {
    const lane = { kind, name: T[name], cq, text: name, top: high };
    lane.height = kind === "host" ? HOST : kind === "program" ? PROGRAM : kind === "cq" ? CQ : Math.max(rows, 1) * ROW + 8;
    high += lane.height + (kind === "requests" ? 0 : GAP);
    if (kind === "program") {
      lane.runs = runs.filter((run) => run.program === name);
      const own = new Set(lane.runs.map((run) => run.id));
      lane.calls = calls.filter((call) => own.has(call.run));
    }
    if (kind === "cq") {
      lane.cqes = cqes.filter((cqe) => cqe.cq === cq);
      lane.changes = [];
      for (const cqe of lane.cqes) {
        if (cqe.entered >= 0) lane.changes.push([cqe.entered, cqe.held, cqe, true]);
        if (cqe.end >= 0) lane.changes.push([cqe.end, cqe.left, cqe, false]);
        if (cqe.fate === 2) lane.changes.push([cqe.begin, -1, cqe, true]);
      }
      lane.changes.sort((a, b) => a[0] - b[0]);
      lane.most = lane.cqes.reduce((most, cqe) => Math.max(most, cqe.held), 1);
    }
    return lane;
  });
  const HIGH = high + 10;
  const laneOf = (item) => lanes.find((lane) =>
    item.kind === "host" || item.kind === "mark" ? lane.kind === "host"
      : item.kind === "run" ? lane.kind === "program" && lane.text === item.program
        : item.kind === "call" ? lane.kind === "program" && items.has(item.run) && lane.text === items.get(item.run).program
          : item.kind === "cqe" ? lane.kind === "cq" && lane.cq === item.cq
            : lane.kind === "requests");

  // --- the view ---------------------------------------------------------------------------------

  const state = { byTime: !data.virtual && times[LAST] > 0, lo: 0, hi: 1, picked: null, allArrows: false };
  let width = 800, height = 400, colours = {}, asked = false;
  const axis = () => (state.byTime ? times : steps);
  const least = () => (state.byTime ? 20 : 4);
  // What is still there at the end reaches beyond it.
  const beyond = ordered.some((one) => one.end < 0 && (one.kind === "park" || one.kind === "host" || one.kind === "request"));
  const whole = () => { const end = axis()[LAST]; const pad = Math.max(end * 0.01, 0.5); return [-pad, end + pad * (beyond ? 12 : 2)]; };
  const xEnd = (item) => (item.end >= 0 || item.kind === "run" || item.kind === "cqe" ? x(finish(item)) : x(LAST) + 22);
  const x = (at) => LABELS + ((axis()[at] - state.lo) / (state.hi - state.lo)) * (width - LABELS);
  const valueAt = (px) => state.lo + ((px - LABELS) / (width - LABELS)) * (state.hi - state.lo);

  function look(lo, hi) {
    const [first, last] = whole();
    let span = Math.min(Math.max(hi - lo, Math.min(least(), last - first)), last - first);
    const middle = (lo + hi) / 2;
    lo = Math.min(Math.max(middle - span / 2, first), last - span);
    state.lo = lo; state.hi = lo + span;
    ask();
  }
  function zoom(factor, px) {
    const at = valueAt(px === undefined ? LABELS + (width - LABELS) / 2 : px);
    const span = Math.min(Math.max((state.hi - state.lo) * factor, least()), whole()[1] - whole()[0]);
    const share = (at - state.lo) / (state.hi - state.lo);
    look(at - share * span, at - share * span + span);
  }
  const move = (share) => { const by = (state.hi - state.lo) * share; look(state.lo + by, state.hi + by); };
  const fit = () => look(...whole());
  function turn() {
    // The same events stay in the middle.
    const inView = ordered.filter((one) => axis()[one.begin] >= state.lo && axis()[one.begin] <= state.hi);
    state.byTime = !state.byTime;
    if (!inView.length || inView.length === ordered.length) fit();
    else {
      const from = axis()[inView[0].begin], to = axis()[inView[inView.length - 1].begin], pad = Math.max((to - from) * 0.03, 1);
      look(from - pad, to + pad);
    }
    label();
  }
  function label() { document.querySelector("[data-go=axis]").textContent = state.byTime ? "axis: time" : "axis: events"; }

  function ask() { if (!asked) { asked = true; requestAnimationFrame(draw); } }
  function measure() {
    const scale = window.devicePixelRatio || 1;
    view.style.height = `min(66vh, ${HIGH}px)`;
    width = view.clientWidth; height = view.clientHeight;
    canvas.width = width * scale; canvas.height = height * scale;
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    $("room").style.height = `${Math.max(HIGH, height)}px`;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ground", "band", "grid", "line", "ink", "soft", "run", "flight", "flight-ink", "park", "behind", "host", "depth", "depth-soft", "fault", "pick"]) {
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    patterns.clear();
    ask();
  }

  const patterns = new Map();
  function hatch(colour, kind) {
    const key = `${colour}${kind}`;
    if (!patterns.has(key)) {
      const tile = document.createElement("canvas");
      tile.width = tile.height = 6;
      const ink = tile.getContext("2d");
      ink.strokeStyle = colours[colour]; ink.lineWidth = 1.6;
      ink.beginPath();
      if (kind === "/") for (const by of [-6, 0, 6]) { ink.moveTo(by, 6); ink.lineTo(by + 6, 0); }
      else if (kind === "\\") for (const by of [-6, 0, 6]) { ink.moveTo(by, 0); ink.lineTo(by + 6, 6); }
      else { ink.moveTo(1.5, 0); ink.lineTo(1.5, 6); }
      ink.stroke();
      patterns.set(key, pen.createPattern(tile, "repeat"));
    }
    return patterns.get(key);
  }

  // The first of a sorted list of spans that do not overlap whose end is at or after `value`.
  function firstFrom(list, value, end) {
    let low = 0, up = list.length;
    while (low < up) { const half = (low + up) >> 1; if (end(list[half]) < value) low = half + 1; else up = half; }
    return low;
  }

  // Spans of one row; what is narrower than a pixel is drawn once for all that share the pixel.
  function spans(list, top, tall, fill, each) {
    const value = axis();
    let drawn = -Infinity;
    for (let at = firstFrom(list, state.lo, (one) => (one.end < 0 ? Infinity : value[one.end])); at < list.length; at += 1) {
      const one = list[at];
      if (value[one.begin] > state.hi) break;
      const left = Math.max(x(one.begin), LABELS - 4), right = Math.min(Math.max(xEnd(one), x(one.begin) + 2), width + 4);
      if (right <= drawn) continue;
      const from = Math.max(left, drawn);
      pen.fillStyle = fill(one);
      pen.fillRect(from, top, Math.max(right - from, 1), tall);
      drawn = right;
      if (each) each(one, left, right);
    }
  }

  function text(words, left, top, colour, most) {
    pen.fillStyle = colours[colour];
    if (most !== undefined && pen.measureText(words).width > most) {
      let kept = words;
      while (kept.length > 1 && pen.measureText(`${kept}…`).width > most) kept = kept.slice(0, -1);
      words = `${kept}…`;
    }
    pen.fillText(words, left, top);
  }

  function cross(px, py, size = 4) {
    pen.strokeStyle = colours.fault; pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(px - size, py - size); pen.lineTo(px + size, py + size);
    pen.moveTo(px - size, py + size); pen.lineTo(px + size, py - size);
    pen.stroke();
  }

  function triangle(px, py, down, colour) {
    const by = down ? 5 : -5;
    pen.fillStyle = colours[colour];
    pen.beginPath(); pen.moveTo(px - 4, py); pen.lineTo(px + 4, py); pen.lineTo(px, py + by); pen.fill();
  }

  function draw() {
    asked = false;
    const scroll = view.scrollTop;
    pen.font = '12px system-ui, "DejaVu Sans", sans-serif';
    pen.textBaseline = "middle";
    pen.fillStyle = colours.ground; pen.fillRect(0, 0, width, height);
    pen.save();
    pen.translate(0, -scroll);
    const seen = lanes.filter((lane) => lane.top + lane.height >= scroll && lane.top <= scroll + height);
    for (const lane of seen) { pen.fillStyle = colours.band; pen.fillRect(0, lane.top, width, lane.height); }
    drawGrid(scroll);
    for (const lane of seen) {
      pen.save();
      pen.beginPath(); pen.rect(LABELS, lane.top, width - LABELS, lane.height); pen.clip();
      if (lane.kind === "host") drawHost(lane);
      else if (lane.kind === "program") drawProgram(lane);
      else if (lane.kind === "cq") drawCq(lane);
      else drawRequests(lane, scroll);
      pen.restore();
      text(lane.name, 8, lane.top + (lane.kind === "requests" ? 12 : Math.min(lane.height / 2, 16)), "ink", LABELS - 14);
      if (lane.kind === "cq") {
        const size = data.sizes[lane.cq];
        text(`most ${lane.changes.some((one) => one[3]) ? lane.most : 0}${size ? ` of ${size}` : ""}`, 8, lane.top + 34, "soft", LABELS - 14);
      }
    }
    if (data.gap) {
      const left = Math.max(x(data.gap[0]), LABELS), right = Math.min(x(data.gap[1]), width);
      if (right > left) {
        pen.fillStyle = hatch("behind", "/"); pen.globalAlpha = 0.5; pen.fillRect(left, AXIS, right - left, HIGH); pen.globalAlpha = 1;
        text("left out", left + 6, AXIS + 10, "ink", right - left - 8);
      }
    }
    drawArrows();
    drawWaiters();
    pen.restore();
    drawAxis();
    pen.strokeStyle = colours.line; pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(LABELS - 0.5, 0); pen.lineTo(LABELS - 0.5, height); pen.stroke();
    const shown = (state.hi - state.lo) / (whole()[1] - whole()[0]);
    $("where").textContent = `${state.byTime ? `${(Math.max(state.lo, 0) / 1e6).toFixed(3)} to ${(state.hi / 1e6).toFixed(3)} ms` : `events ${Math.max(0, Math.ceil(state.lo)).toLocaleString("en")} to ${Math.min(steps[LAST], Math.floor(state.hi)).toLocaleString("en")}`}${shown < 0.999 ? ` (${(shown * 100).toPrecision(2)} %)` : ""}`;
  }

  function ticks() {
    const span = state.hi - state.lo, pixels = width - LABELS;
    const raw = (span * 130) / pixels, power = 10 ** Math.floor(Math.log10(raw));
    let tick = [1, 2, 5, 10].map((by) => by * power).find((by) => by >= raw);
    if (!state.byTime) tick = Math.max(1, Math.round(tick));
    const found = [];
    for (let at = Math.max(0, Math.ceil(state.lo / tick)) * tick; at <= state.hi && at <= axis()[LAST]; at += tick) {
      found.push([at, LABELS + ((at - state.lo) / span) * pixels]);
    }
    return [tick, found];
  }

  function drawGrid(scroll) {
    pen.strokeStyle = colours.grid; pen.lineWidth = 1;
    pen.beginPath();
    for (const [, px] of ticks()[1]) { pen.moveTo(Math.floor(px) + 0.5, scroll + AXIS - 5); pen.lineTo(Math.floor(px) + 0.5, scroll + height); }
    pen.stroke();
  }

  function drawAxis() {
    pen.fillStyle = colours.ground; pen.fillRect(0, 0, width, AXIS);
    text(state.byTime ? "time, ms" : "event · time, ms", 8, AXIS / 2, "soft", LABELS - 12);
    const [tick, found] = ticks();
    let said = "";
    for (const [at, px] of found) {
      let words;
      if (state.byTime) words = (at / 1e6).toFixed(tick >= 1e6 ? 0 : Math.min(6, Math.ceil(-Math.log10(tick / 1e6))));
      else {
        const place = Math.max(0, firstFrom(steps, at + 0.5, (one) => one) - 1);
        const time = (times[place] / 1e6).toFixed(3);
        words = at.toLocaleString("en") + (time === said ? "" : ` · ${time}`);
        said = time;
      }
      text(words, px + 3, AXIS / 2, "soft");
    }
  }

  const boxed = (one, left, top, wide, tall) => {
    if (one === state.picked) {
      pen.strokeStyle = colours.pick; pen.lineWidth = 2;
      pen.strokeRect(left - 1, top - 1, Math.max(wide, 2) + 2, tall + 2);
    }
  };

  function drawHost(lane) {
    const top = lane.top + 15, tall = 11;
    spans(hosts, top, tall, () => hatch("host", "\\"), (one, left, right) => {
      pen.strokeStyle = colours.host; pen.lineWidth = 1; pen.strokeRect(left + 0.5, top + 0.5, Math.max(right - left - 1, 1), tall - 1);
      boxed(one, left, top, right - left, tall);
      
    });
    let free = -Infinity;
    for (let at = firstFrom(marks, state.lo, (one) => axis()[one.begin]); at < marks.length; at += 1) {
      const one = marks[at], px = x(one.begin);
      if (px > width) break;
      const step = T[one.word] === "step";
      if (step && px < free - 60) continue;
      if (step) triangle(px, lane.top + 4, true, "ink");
      else { pen.fillStyle = colours.fault; pen.beginPath(); pen.moveTo(px, lane.top + 1); pen.lineTo(px + 6, lane.top + 7); pen.lineTo(px, lane.top + 13); pen.lineTo(px - 6, lane.top + 7); pen.fill(); }
      boxed(one, px - 6, lane.top + 1, 12, 12);
      if (px > free) {
        const next = at + 1 < marks.length ? x(marks[at + 1].begin) : Infinity;
        const words = T[one.text].replace(/^steps\[\d+\]: /, ""), room = Math.min(next - px - 16, 180);
        if (room > 20) text(words, px + 8, lane.top + 7, "soft", room);
        free = px + 14;
      }
    }
  }

  function drawProgram(lane) {
    const top = lane.top + 5, tall = 15;
    spans(lane.runs, top, tall, () => colours.run, (one, left, right) => {
      if (right - left > 30) text(`run ${one.number}`, Math.max(left, LABELS) + 4, top + 8, "ground", right - left - 6);
      if (one.fault) cross(right, top + 7, 6);
      boxed(one, left, top, right - left, tall);
    });
    let drawn = -Infinity;
    pen.fillStyle = colours.ink;
    for (let at = firstFrom(lane.calls, state.lo, (one) => axis()[one.begin]); at < lane.calls.length; at += 1) {
      const one = lane.calls[at], px = x(one.begin);
      if (px > width) break;
      if (px < drawn + 1 && one !== state.picked) continue;
      pen.fillStyle = colours.ink; pen.fillRect(px - 1, top + tall + 2, 2, 7);
      boxed(one, px - 2, top + tall + 1, 4, 9);
      drawn = px;
    }
  }

  function drawCq(lane) {
    const floor = lane.top + lane.height - 10, tall = lane.height - 22, value = axis();
    const first = Math.max(0, firstFrom(lane.changes, state.lo, (one) => value[one[0]]) - 1);
    let held = 0;
    for (let at = first - 1; at >= 0; at -= 1) if (lane.changes[at][1] >= 0) { held = lane.changes[at][1]; break; }
    // Of changes in one pixel the most is shown there, and the last from there on.
    const points = [], end = Math.min(Math.max(x(LAST), LABELS), width);
    let left = LABELS, most = held;
    const upTo = (px) => {
      const peak = Math.min(left + 1.5, px);
      points.push([left, peak, most], [peak, px, held]);
    };
    for (let at = first; at < lane.changes.length; at += 1) {
      const [place, now] = lane.changes[at], px = Math.max(LABELS, x(place));
      if (px > width) break;
      if (now < 0) continue;
      if (px - left >= 1.5) { upTo(px); left = px; most = now; } else most = Math.max(most, now);
      held = now;
    }
    upTo(Math.max(end, left + 1.5));
    for (const [from, to, depth] of points) {
      if (!depth || to <= from) continue;
      pen.fillStyle = colours[to - from < 2 ? "depth" : "depth-soft"];
      pen.fillRect(from, floor - (tall * depth) / lane.most, to - from, (tall * depth) / lane.most);
    }
    pen.fillStyle = colours.depth;
    for (const [from, to, depth] of points) if (to > from) pen.fillRect(from, floor - (tall * depth) / lane.most - 1, to - from, 2);
    const dense = (width - LABELS) / Math.max(1, firstFrom(lane.changes, state.hi, (one) => value[one[0]]) - first) < 7;
    for (let at = first; at < lane.changes.length; at += 1) {
      const [place, now, cqe, came] = lane.changes[at], px = x(place);
      if (px > width) break;
      if (px < LABELS - 5) continue;
      if (now < 0) cross(px, lane.top + 6);
      else if (!dense) triangle(px, came ? lane.top + 3 : floor + 3, true, came ? "depth" : "soft");
      if (cqe === state.picked) boxed(cqe, px - 5, came ? lane.top + 1 : floor + 1, 10, 9);
    }
    for (const cqe of lane.cqes) {
      if (cqe.fate === 1) { pen.fillStyle = hatch("park", "/"); pen.fillRect(x(cqe.begin), lane.top + 9, Math.max(x(cqe.entered >= 0 ? cqe.entered : LAST) - x(cqe.begin), 2), 4); }
    }
    if (state.picked && state.picked.kind === "cqe" && state.picked.cq === lane.cq && state.picked.entered >= 0) {
      const one = state.picked;
      pen.fillStyle = colours.pick; pen.globalAlpha = 0.35; pen.fillRect(x(one.entered), floor - 3, Math.max(x(finish(one)) - x(one.entered), 2), 3); pen.globalAlpha = 1;
    }
  }

  function drawRequests(lane, scroll) {
    const first = Math.max(0, Math.floor((scroll - lane.top) / ROW) - 1), last = Math.min(rows, Math.ceil((scroll + height - lane.top) / ROW) + 1);
    for (let row = first; row < last; row += 1) {
      const top = lane.top + 17 + row * ROW, tall = BAR, names = [];
      spans(requestRows[row], top, tall, () => colours.flight, (one, left, right) => {
        if (one.behind && one.begin !== one.started) {
          const until = Math.min(x(one.started >= 0 ? one.started : finish(one)), width);
          pen.fillStyle = colours.band; pen.fillRect(left, top, until - left, tall);
          pen.fillStyle = hatch("behind", "|"); pen.fillRect(left, top, until - left, tall);
        }
        names.push([one, left, right]);
      });
      spans(parkRows[row], top, tall, () => colours.band, (one, left, right) => {
        pen.fillStyle = hatch("park", "/"); pen.fillRect(left, top, right - left, tall);
        boxed(one, left, top, right - left, tall);
      });
      spans(runRows[row], top, tall, (one) => (one.fault ? colours.fault : colours.run), (one, left, right) => boxed(one, left, top, right - left, tall));
      names.forEach(([one, left, right], at) => {
        const from = Math.max(left, LABELS), next = at + 1 < names.length ? names[at + 1][1] : width;
        if (next - from > 26) {
          const program = programOf.get(one.number);
          const words = `${one.number} ${program === undefined ? T[one.opcode] : T[program]}${one.end >= 0 ? ` = ${one.quiet ? "no CQE" : T[one.outcome]}` : ""}`;
          text(words, from + 1, top - 7, "ink", next - from - 6);
        }
        if (one.end < 0 && right < width) { pen.fillStyle = colours.park; pen.beginPath(); pen.moveTo(right, top - 2); pen.lineTo(right + 9, top + tall / 2); pen.lineTo(right, top + tall + 2); pen.fill(); }
        else if (/^-/.test(T[one.outcome])) { const cap = Math.min(3, Math.max(1, (right - left) / 3)); pen.fillStyle = colours.fault; pen.fillRect(right - cap, top, cap, tall); }
        boxed(one, left, top, right - left, tall);
      });
    }
  }

  // Where an arrow meets an item.
  function anchor(item, at) {
    const lane = laneOf(item);
    if (!lane) return null;
    let y = lane.top + 20;
    if (lane.kind === "requests") {
      const row = item.kind === "request" ? item.row : rowOfNumber(item.request);
      if (row === undefined) return null;
      y = lane.top + 17 + row * ROW + BAR / 2;
    } else if (lane.kind === "cq") y = lane.top + 6;
    else if (lane.kind === "program") y = lane.top + 12;
    return [x(Math.min(Math.max(at, item.begin), finish(item))), y];
  }

  function drawArrows() {
    let shown;
    if (state.allArrows) {
      const value = axis();
      shown = [];
      for (const arrow of arrows) {
        if (value[arrow.at] >= state.lo && value[arrow.at] <= state.hi) shown.push(arrow);
        if (shown.length > MOST_ARROWS) { shown = []; break; }
      }
    } else shown = [];
    if (state.picked) shown = [...shown, ...(causes.get(state.picked.id) || []), ...(effects.get(state.picked.id) || []).slice(0, MOST_ARROWS)];
    pen.save();
    pen.beginPath(); pen.rect(LABELS, AXIS, width - LABELS, HIGH); pen.clip();
    for (const arrow of shown) {
      const from = anchor(arrow.source, arrow.at), to = anchor(arrow.target, arrow.at);
      if (!from || !to) continue;
      const strong = state.picked && (arrow.source === state.picked || arrow.target === state.picked);
      pen.strokeStyle = pen.fillStyle = strong ? colours.pick : colours.soft;
      pen.lineWidth = strong ? 1.6 : 0.9;
      const bend = Math.max(14, Math.abs(to[1] - from[1]) * 0.15), dir = to[1] >= from[1] ? 1 : -1;
      pen.beginPath(); pen.moveTo(...from); pen.bezierCurveTo(from[0] + bend, from[1], to[0] + bend, to[1], to[0], to[1]); pen.stroke();
      pen.beginPath(); pen.moveTo(to[0], to[1]); pen.lineTo(to[0] + 7, to[1] - 2 - dir); pen.lineTo(to[0] + 4, to[1] + 5); pen.fill();
    }
    pen.restore();
  }

  // Who still waits at the end, and on which queue.
  function drawWaiters() {
    const from = x(LAST) + 22;
    if (from < LABELS || from > width) return;
    pen.save();
    pen.setLineDash([4, 3]);
    for (const [at, one] of [...hosts, ...parks].filter((each) => each.end < 0).slice(0, MOST_WAITERS).entries()) {
      if (one.kind === "host" && !one.wanted) continue;
      const lane = lanes.find((each) => each.kind === "cq" && each.cq === one.cq), row = rowOfNumber(one.request);
      if (!lane || (one.kind === "park" && row === undefined)) continue;
      const y = one.kind === "host" ? lanes[0].top + 20 : laneOf(one).top + 17 + row * ROW + BAR / 2;
      const to = lane.top + lane.height / 2 + (one.kind === "host" ? -4 : 4), px = from + 14 + (at % 8) * 5;
      pen.strokeStyle = pen.fillStyle = colours[one.kind === "host" ? "host" : "park"]; pen.lineWidth = 1.6;
      pen.beginPath(); pen.moveTo(from, y); pen.lineTo(px, y); pen.lineTo(px, to); pen.lineTo(from - 14, to); pen.stroke();
      pen.beginPath(); pen.moveTo(from - 22, to); pen.lineTo(from - 14, to - 4); pen.lineTo(from - 14, to + 4); pen.fill();
    }
    pen.restore();
  }

  // --- choosing ---------------------------------------------------------------------------------

  function nearest(list, px, place) {
    // Lists are in order of begin; only what is near the pixel can be meant.
    let best = null, least = NEAR;
    const value = axis(), from = valueAt(px - NEAR - 1), to = valueAt(px + NEAR + 1);
    for (let at = firstFrom(list, from, (one) => value[place(one)]); at < list.length && value[place(list[at])] <= to; at += 1) {
      const away = Math.abs(x(place(list[at])) - px);
      if (away < least) { least = away; best = list[at]; }
    }
    return best;
  }
  function within(list, px) {
    const value = axis();
    let best = null, least = 4;
    for (let at = firstFrom(list, valueAt(px - 4), (one) => (one.end < 0 ? Infinity : value[one.end])); at < list.length && x(list[at].begin) <= px + 4; at += 1) {
      const away = Math.max(x(list[at].begin) - px, px - xEnd(list[at]), 0);
      if (away < least) { least = away; best = list[at]; }
    }
    return best;
  }
  function find(px, py) {
    const lane = lanes.find((one) => py >= one.top && py < one.top + one.height);
    if (!lane || px < LABELS) return null;
    if (lane.kind === "host") return (py < lane.top + 15 && nearest(marks, px, (one) => one.begin)) || within(hosts, px) || nearest(marks, px, (one) => one.begin);
    if (lane.kind === "program") return (py > lane.top + 20 && nearest(lane.calls, px, (one) => one.begin)) || within(lane.runs, px) || nearest(lane.calls, px, (one) => one.begin);
    if (lane.kind === "cq") {
      const low = py > lane.top + lane.height / 2;
      const change = nearest(lane.changes.filter((one) => one[3] !== low), px, (one) => one[0]) || nearest(lane.changes, px, (one) => one[0]);
      return change ? change[2] : lane.cqes.find((one) => one.entered >= 0 && x(one.entered) <= px && x(finish(one)) >= px) || null;
    }
    const row = Math.floor((py - lane.top - 2) / ROW);
    if (row < 0 || row >= rows) return null;
    return within(runRows[row], px) || within(parkRows[row], px) || within(requestRows[row], px);
  }

  function make(tag, properties, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const link = (item, words) => make("button", { class: "link", onclick: () => pick(item, true) }, words || title(item));

  function facts(item) {
    const number = (one) => (byNumber.has(one) ? link(byNumber.get(one)) : `request ${one}`);
    const all = [];
    const say = (name, ...what) => { if (what.some((one) => one !== "" && one !== undefined && one !== null)) all.push([name, what]); };
    const lasted = item.end >= 0 && item.end !== item.begin;
    const took = lasted && times[item.end] > times[item.begin] ? ` to ${clock(item.end)}: ${((times[item.end] - times[item.begin]) / 1e6).toFixed(6)} ms` : "";
    const open = item.end < 0 && item.fate !== 2 ? ", still there at the end" : "";
    say("when", `${clock(item.begin)}${took}${open} (event ${steps[item.begin].toLocaleString("en")}${lasted ? ` to ${steps[item.end].toLocaleString("en")}` : ""})`);
    if (item.kind === "request") {
      say("submitted by", T[item.origin], items.has(item.by) ? " in " : null, items.has(item.by) ? link(items.get(item.by)) : null);
      say("SQE", T[item.fields]);
      say("flags", T[item.flags]);
      say("user_data", T[item.userData]);
      say("completes on", cqName(item.cq));
      if (item.chain && (item.behind || requests.some((one) => one.behind === item.number))) say("chain", `of request ${item.chain}`, item.behind ? ", behind " : null, item.behind ? number(item.behind) : null);
      if (item.started >= 0) say("its turn", clock(item.started));
      else if (item.behind) say("its turn", "never came");
      say("result", item.end < 0 ? "in flight at the end" : `${T[item.outcome]}${item.quiet ? ", without a CQE" : ""}`);
      if (item.cqes > 1) say("CQEs", String(item.cqes));
      const own = runs.filter((run) => run.request === item.number);
      if (own.length) say("runs", ...own.slice(0, 12).flatMap((run, at) => [at ? ", " : "", link(run, `run ${run.number}`)]), own.length > 12 ? ` … ${own.length} in all` : null);
      const waits = parks.filter((park) => park.request === item.number);
      if (waits.length) say("waits", ...waits.slice(0, 12).flatMap((park, at) => [at ? ", " : "", link(park, `${park.wanted} on ${cqName(park.cq)}`)]), waits.length > 12 ? ` … ${waits.length} in all` : null);
    } else if (item.kind === "run") {
      say("of", number(item.request));
      say("outcome", T[item.outcome] || "not over");
      say("at", T[item.line]);
      say("instructions", item.insns.toLocaleString("en"));
      say("slot", String(item.slot));
    } else if (item.kind === "call") {
      say("C line", T[item.line]);
      if (items.has(item.run)) say("in", link(items.get(item.run)));
    } else if (item.kind === "park") {
      say("of", number(item.request));
      say("waits for", `${plural(item.wanted, "CQE")} on ${cqName(item.cq)}`);
      say("ended with", item.end < 0 ? "nothing: it still waits" : `${plural(item.held, "CQE")} held`, items.has(item.by) ? ", the last is " : null, items.has(item.by) ? link(items.get(item.by)) : null);
    } else if (item.kind === "host") {
      say("ended with", item.end < 0 ? "nothing: it still waits" : `${plural(item.held, "CQE")} held${item.late ? ", at its deadline" : ""}`);
    } else if (item.kind === "cqe") {
      say("from", item.request >= 0 ? number(item.request) : items.has(item.source) ? link(items.get(item.source)) : T[item.origin]);
      say("user_data", T[item.userData]);
      say("result", T[item.outcome]);
      say("flags", T[item.flags]);
      say("fate", item.fate === 2 ? "lost: the queue was full" : item.fate === 1 ? `backlog${item.entered >= 0 ? `, in the queue at ${clock(item.entered)}` : ", never in the queue"}` : "");
      if (item.fate !== 2) say("reaped", item.end < 0 ? "not by the end" : `by ${T[item.reaper]} at ${clock(item.end)}; ${item.left} left`);
      if (item.entered >= 0) say("queue then", plural(item.held, "CQE"));
    } else {
      if (item.request >= 0) say("of", number(item.request));
      if (item.cq >= 0) say("CQ", String(item.cq));
    }
    const words = { submits: ["submitted by", "submits"], links: ["after", "then"], completes: ["completion of", "completes as"], emits: ["emitted by", "emits"], wakes: ["woken by", "wakes"], reaps: ["reaps", "reaped by"] };
    for (const [of, side, end] of [[causes, 0, "source"], [effects, 1, "target"]]) {
      const grouped = new Map();
      for (const arrow of of.get(item.id) || []) { if (!grouped.has(arrow.kind)) grouped.set(arrow.kind, []); grouped.get(arrow.kind).push(arrow[end]); }
      for (const [kind, ends] of grouped) say(words[kind][side], ...ends.slice(0, 24).flatMap((one, at) => [at ? ", " : "", link(one)]), ends.length > 24 ? ` … ${ends.length} in all` : null);
    }
    return all;
  }

  function pick(item, show) {
    state.picked = item;
    const box = $("details");
    box.replaceChildren();
    if (!item) box.append(make("p", { class: "soft" }, "Nothing selected."));
    else {
      const list = make("dl");
      for (const [name, what] of facts(item)) list.append(make("dt", {}, name), make("dd", {}, ...what));
      box.append(make("h2", {}, title(item)), list);
      const made = item.kind === "run" ? callsOf.get(item.id) || [] : [];
      if (made.length) {
        box.append(make("h3", {}, "Helper calls"), make("ol", {}, ...made.slice(0, MOST_CALLS).map((call) => make("li", {}, link(call, T[call.text]), call.line ? make("span", { class: "soft" }, T[call.line]) : null))));
        if (made.length > MOST_CALLS) box.append(make("p", { class: "soft" }, `and ${made.length - MOST_CALLS} more`));
      }
      if (show) reveal(item);
    }
    ask();
  }
  function reveal(item) {
    const value = axis(), begin = value[item.begin], end = value[finish(item)], span = state.hi - state.lo;
    if (begin < state.lo || begin > state.hi) look(begin - span * 0.3, begin + span * 0.7);
    else if (end - begin < span && end > state.hi) look(end - span * 0.8, end + span * 0.2);
    const lane = laneOf(item);
    if (!lane) return;
    const row = item.kind === "request" ? item.row : rowOfNumber(item.request);
    const y = lane.kind === "requests" && row !== undefined ? lane.top + row * ROW : lane.top;
    if (y < view.scrollTop + AXIS) view.scrollTop = y - AXIS - 10;
    else if (y + 40 > view.scrollTop + height) view.scrollTop = y - height + 60;
  }
  function along(by) {
    if (!ordered.length) return;
    let at;
    if (state.picked) at = state.picked.order + by;
    else { at = ordered.findIndex((one) => axis()[one.begin] >= state.lo); if (at < 0) at = 0; }
    pick(ordered[Math.min(Math.max(at, 0), ordered.length - 1)], true);
  }
  function follow(of, end) {
    const found = state.picked && (of.get(state.picked.id) || [])[0];
    if (found) pick(found[end], true);
  }
  function zoomTo(item) {
    const value = axis(), from = value[item.begin], to = value[finish(item)], pad = Math.max((to - from) * 0.15, least());
    look(from - pad, to + pad);
    reveal(item);
  }
  function search(words, on) {
    const wanted = words.trim().toLowerCase();
    if (!wanted) return;
    const from = on && state.picked ? state.picked.order + 1 : 0;
    for (let by = 0; by < ordered.length; by += 1) {
      const one = ordered[(from + by) % ordered.length];
      const said = `${title(one)} ${one.outcome === undefined ? "" : T[one.outcome]} ${one.userData === undefined ? "" : T[one.userData]}`.toLowerCase();
      const at = said.indexOf(wanted);
      // "request 1" does not mean request 12.
      if (at >= 0 && !(/\d$/.test(wanted) && /\d/.test(said[at + wanted.length] || ""))) { pick(one, true); return; }
    }
    $("details").replaceChildren(make("p", { class: "soft" }, `Nothing is called ${words}.`));
  }

  // --- hands ------------------------------------------------------------------------------------

  const go = {
    in: () => zoom(0.6), out: () => zoom(1 / 0.6), fit, next: () => along(1), previous: () => along(-1),
    cause: () => follow(causes, "source"), effect: () => follow(effects, "target"), axis: turn,
  };
  for (const button of document.querySelectorAll("[data-go]")) button.addEventListener("click", () => go[button.dataset.go]());
  for (const button of document.querySelectorAll("[data-item]")) button.addEventListener("click", () => { const item = items.get(Number(button.dataset.item)); if (item) { pick(item, true); view.focus(); } });
  $("arrows").addEventListener("change", (event) => { state.allArrows = event.target.checked; ask(); });
  $("find").addEventListener("keydown", (event) => {
    if (event.key === "Enter") search(event.target.value, true);
    else if (event.key === "Escape") view.focus();
  });
  const KEYS = {
    "+": go.in, "=": go.in, "-": go.out, "0": fit, j: go.next, k: go.previous, "[": go.cause, "]": go.effect, t: turn,
    z: () => state.picked && zoomTo(state.picked), Enter: () => state.picked && zoomTo(state.picked),
    a: () => { $("arrows").checked = state.allArrows = !state.allArrows; ask(); },
    ArrowLeft: () => move(-0.15), ArrowRight: () => move(0.15), ArrowUp: () => { view.scrollTop -= 40; }, ArrowDown: () => { view.scrollTop += 40; },
    Home: () => look(whole()[0], whole()[0] + state.hi - state.lo), End: () => look(whole()[1] - state.hi + state.lo, whole()[1]),
    Escape: () => pick(null), "/": () => { $("find").focus(); $("find").select(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SUMMARY)$/.test(event.target.tagName)) return;
    if (event.target.tagName === "BUTTON" && event.key === "Enter") return;
    if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); }
  });
  const inside = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  view.addEventListener("wheel", (event) => {
    const [px] = inside(event);
    if (px < LABELS) return; // over the names: scroll
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move((event.deltaX || event.deltaY) / 800);
    else zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY)) * 0.0022), px);
  }, { passive: false });
  view.addEventListener("scroll", ask);
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    grip = { x: event.clientX, y: event.clientY, lo: state.lo, hi: state.hi, top: view.scrollTop, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!grip) {
      const [px, py] = inside(event), item = find(px, py + view.scrollTop);
      canvas.title = item ? title(item) : "";
      return;
    }
    const dx = event.clientX - grip.x, dy = event.clientY - grip.y;
    if (Math.abs(dx) + Math.abs(dy) > 4) grip.moved = true;
    if (!grip.moved) return;
    canvas.classList.add("moving");
    const by = (-dx / (width - LABELS)) * (grip.hi - grip.lo);
    look(grip.lo + by, grip.hi + by);
    view.scrollTop = grip.top - dy;
  });
  canvas.addEventListener("pointerup", (event) => {
    const was = grip;
    grip = null;
    canvas.classList.remove("moving");
    if (was && !was.moved) { const [px, py] = inside(event); pick(find(px, py + view.scrollTop)); }
  });
  canvas.addEventListener("dblclick", (event) => zoom(0.4, inside(event)[0]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", measure);
  new ResizeObserver(measure).observe(view);

  // Where an item is on the canvas, for tests and for those who embed the page.
  window.timeline = {
    state, items,
    spot(id) {
      const item = items.get(id), at = item && anchor(item, item.begin);
      if (!at) return null;
      if (item.kind === "call") at[1] += 14;
      const box = canvas.getBoundingClientRect();
      return [box.left + at[0] + 1, box.top + at[1] - view.scrollTop];
    },
  };
  label();
  measure();
  fit();
  draw();
  document.documentElement.dataset.ready = "1";
})();
