"use strict";
// Data is only ever set as text: no part of it becomes an element, an attribute or code.
(() => {
  const $ = (id) => document.getElementById(id);
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const LEVELS = ["debug", "info", "warning", "error", "critical"];
  const ROW = 20;
  const GUTTER = 52;
  const AXIS = 20;
  const TROUBLES = ["silent", "stopped", "unreachable", "dead"];
  const view = { ranks: "", level: 0, text: "", from: null, to: null };
  let data = null;
  let shownLines = [];
  let at = -1;
  let visible = []; // places of the ranks on the map
  let cursor = null; // [row, bin] of the keyboard on the map
  let drag = null;
  let paused = false;
  let pending = null;
  let matcher = null;

  function h(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (name === "onclick") made.addEventListener("click", value);
      else if (name === "class") made.className = value;
      else if (name === "color") made.style.background = value;
      else made[name] = value;
    }
    made.append(...children);
    return made;
  }
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const two = (number) => String(number).padStart(2, "0");
  const classOf = (level) => (level < 20 ? 0 : level < 30 ? 1 : level < 40 ? 2 : level < 50 ? 3 : 4);
  const nameOf = (level) => ({ 0: "", 10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL" })[level] ?? String(level);
  const rankName = (rank) => (rank < 0 ? "client" : String(rank));
  const many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
  const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4))));

  function clock(seconds, digits = 3) {
    const day = new Date(seconds * 1000);
    const text = `${two(day.getHours())}:${two(day.getMinutes())}:${two(day.getSeconds())}`;
    return digits ? `${text}.${String(Math.floor((seconds % 1) * 1000)).padStart(3, "0").slice(0, digits)}` : text;
  }
  function headline(text) {
    const start = /^(?:\[\d+ similar log lines(?: in \d+ s)?\] (?:\[ranks? [\d,-]+\] )?)?/.exec(text)[0];
    const [first, ...rest] = text.slice(start.length).split("\n");
    if (!/^(?: {2}\+ Exception Group )?Traceback \(most recent call last\):$/.test(first)) return [start + first, rest.length];
    const last = rest.map((line) => line.replace(/^ {2}\| /, "")).findLast((line) => line && !line.startsWith(" "));
    return [start + (last ?? first), rest.length];
  }
  function span(seconds) {
    if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
    const whole = Math.round(seconds);
    return whole < 3600 ? `${Math.floor(whole / 60)}:${two(whole % 60)} min` : `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)} h`;
  }

  // -- filters ---------------------------------------------------------------------------------------------------------

  function parseRanks(text) {
    const ranges = [];
    for (const part of text.split(",")) {
      const found = /^\s*(?:(client)|(\d+)(?:\s*-\s*(\d+))?)\s*$/.exec(part);
      if (!found) return null;
      if (found[1]) ranges.push([-1, -1]);
      else ranges.push([Number(found[2]), Number(found[3] ?? found[2])]);
    }
    return ranges;
  }
  const within = (rank, ranges) => ranges.some(([low, high]) => low <= rank && rank <= high);
  function makeMatcher(text) {
    if (!text) return null;
    const found = /^\/(.+)\/(i?)$/.exec(text);
    if (found) {
      try {
        const pattern = new RegExp(found[1], found[2]);
        return (line) => { const hit = pattern.exec(line); return hit && hit[0] ? [hit.index, hit.index + hit[0].length] : null; };
      } catch { return undefined; }
    }
    const wanted = text.toLowerCase();
    return (line) => { const where = line.toLowerCase().indexOf(wanted); return where < 0 ? null : [where, where + wanted.length]; };
  }
  function parseTime(text) {
    const found = /^\s*(\d+):(\d\d)(?::(\d\d(?:\.\d+)?))?\s*-\s*(\d+):(\d\d)(?::(\d\d(?:\.\d+)?))?\s*$/.exec(text);
    if (!found) return null;
    const day = new Date(data.from * 1000);
    const of = (hour, minute, second) => {
      day.setHours(Number(hour), Number(minute), 0, 0);
      let when = day.getTime() / 1000 + Number(second || 0);
      while (when < data.from - 43200) when += 86400; // the run went past midnight
      return when;
    };
    return [of(found[1], found[2], found[3]), of(found[4], found[5], found[6])];
  }
  function set(changes) {
    Object.assign(view, changes);
    $("f-ranks").value = view.ranks;
    $("f-level").value = String(view.level);
    $("f-text").value = view.text;
    $("f-time").value = view.from === null ? "" : `${clock(view.from)}-${clock(view.to)}`;
    apply();
  }
  function clear() { set({ ranks: "", level: 0, text: "", from: null, to: null }); }

  function apply() {
    if (!data) return;
    const ranges = view.ranks.trim() ? parseRanks(view.ranks) : null;
    matcher = makeMatcher(view.text);
    $("f-ranks").className = view.ranks.trim() ? (ranges ? "set" : "bad") : "";
    $("f-text").className = view.text ? (matcher === undefined ? "bad" : "set") : "";
    $("f-level").className = view.level ? "set" : "";
    $("f-time").className = view.from === null ? "" : "set";
    $("clear").className = view.ranks || view.level || view.text || view.from !== null ? "set" : "";
    const test = matcher || null;
    visible = data.ranks.map((_, place) => place).filter((place) => !ranges || within(data.ranks[place], ranges));
    const chosen = ranges ? new Set(visible) : null;
    const matches = test ? data.texts.map((text) => test(text) !== null) : null;
    const low = view.from === null ? -Infinity : (view.from - data.from) * 1000;
    const high = view.from === null ? Infinity : (view.to - data.from) * 1000;
    shownLines = data.lines.filter((line) => line[0] >= low && line[0] <= high && line[2] >= view.level
      && (!chosen || chosen.has(line[1])) && (!matches || matches[line[4]]));
    at = -1;
    $("detail").hidden = true;
    drawMap();
    drawGroups(ranges, test);
    drawRank();
    drawProgress();
    const all = shownLines.length === data.lines.length;
    $("lines-note").textContent = `${all ? "" : `${shownLines.length.toLocaleString("en")} of `}${many(data.lines.length, "line")} on this page`
      + (data.total > data.lines.length ? `: the last of each rank, and its warnings and errors` : "");
    $("space").style.height = `${shownLines.length * ROW}px`;
    $("lines").scrollTop = data.live || data.over ? $("space").offsetHeight : 0;
    drawLines();
  }

  // -- the map ---------------------------------------------------------------------------------------------------------

  function bins() {
    if (view.from === null) return [0, Math.max(1, data.bins)];
    const first = Math.max(0, Math.floor((view.from - data.from) / data.width));
    const last = Math.min(data.bins, Math.ceil((view.to - data.from) / data.width));
    return first < last ? [first, last] : [0, Math.max(1, data.bins)];
  }
  const decode = (letter) => ALPHABET.indexOf(letter);
  function canvasOf(canvas, width, height) {
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.font = "11px system-ui, sans-serif";
    return context;
  }
  function rgb(color) {
    const value = parseInt(color.slice(1), 16);
    return [value >> 16, (value >> 8) & 255, value & 255];
  }
  function geometry() {
    const count = Math.max(1, visible.length);
    const size = count <= 24 ? 18 : count <= 60 ? 10 : count <= 120 ? 6 : count <= 240 ? 3 : 1;
    const height = Math.min(520, count * size);
    return { count, height, size: height / count, width: $("map").clientWidth - GUTTER };
  }
  function drawMap() {
    const canvas = $("map");
    const { count, height, size, width } = geometry();
    const [first, last] = bins();
    const context = canvasOf(canvas, canvas.clientWidth, height + AXIS);
    const rows = Math.min(count, height);
    const columns = last - first;
    const image = new ImageData(columns, rows);
    const empty = rgb(css("empty"));
    const paper = rgb(css("panel"));
    const colors = LEVELS.map((name) => rgb(css(name)));
    const least = classOf(view.level);
    const palette = [];
    for (let code = 0; code < 60; code++) {
      const level = Math.floor(code / 12);
      const strength = level < 2 ? 0.3 + 0.7 * Math.min(1, (code % 12) / 8) : 0.8 + 0.2 * Math.min(1, (code % 12) / 6);
      palette.push(colors[level].map((part, index) => Math.round(part * strength + paper[index] * (1 - strength))));
    }
    const errors = []; // with thin rows, they are drawn taller
    for (let row = 0; row < rows; row++) {
      const begin = Math.floor((row * count) / rows);
      const end = Math.max(begin + 1, Math.floor(((row + 1) * count) / rows));
      // Ranks with trouble are not hidden by those that share their pixels.
      const all = visible.slice(begin, end);
      const bad = all.filter((place) => TROUBLES.includes(data.states[place]));
      const shown = bad.length ? bad : all;
      for (let column = 0; column < columns; column++) {
        let best = -1;
        for (const place of shown) {
          const code = decode(data.rows[place][first + column] ?? ".");
          if (code > best) best = code; // the level is its high part
        }
        const color = best < 0 || (best / 12 | 0) < least ? empty : palette[best];
        image.data.set([...color, 255], 4 * (row * columns + column));
        if (height / rows < 3 && best >= 36 && color !== empty) errors.push([row, column, color]);
      }
    }
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, GUTTER, 0, width, height);
    for (const [row, column, color] of errors) {
      context.fillStyle = `rgb(${color.join(",")})`;
      const left = Math.floor((column * width) / columns);
      const top = Math.max(0, Math.min(height - 3, Math.round((row * height) / rows) - 1));
      context.fillRect(GUTTER + left, top, Math.max(3, Math.ceil(width / columns)), 3);
    }
    context.fillStyle = css("panel");
    if (size >= 6) for (let row = 1; row < count; row++) context.fillRect(GUTTER, Math.round(row * size), width, 1);
    // The states, and the numbers of the ranks.
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((each) => each * size >= 13) || 10000;
    context.textBaseline = "middle";
    context.textAlign = "right";
    const marks = [];
    for (let row = 0; row < rows; row++) {
      const begin = Math.floor((row * visible.length) / rows);
      const end = Math.max(begin + 1, Math.floor(((row + 1) * visible.length) / rows));
      const worst = Math.max(...visible.slice(begin, end).map((place) => TROUBLES.indexOf(data.states[place])), -1);
      const known = visible.slice(begin, end).some((place) => data.states[place]);
      marks.push([row, worst, worst >= 0 ? TROUBLES[worst] : known ? (data.live ? "ok" : "ended") : "line"]);
    }
    marks.sort((one, other) => one[1] - other[1]); // trouble is drawn over the rest, and wider if rows are thin
    for (const [row, worst, name] of marks) {
      const tall = Math.max(worst < 0 ? 1 : 3, Math.round(height / rows) - (size >= 6 ? 1 : 0));
      context.fillStyle = css(name);
      context.fillRect(GUTTER - (worst < 0 || size >= 6 ? 7 : 9), Math.round((row * height) / rows), worst < 0 || size >= 6 ? 4 : 8, tall);
    }
    context.fillStyle = css("dim");
    let previous = -99;
    visible.forEach((place, row) => {
      const number = data.ranks[place];
      const y = (row + 0.5) * size;
      if ((step === 1 || number % step === 0 || number < 0) && y - previous >= 12) {
        context.fillText(rankName(number), GUTTER - 11, Math.max(6, Math.min(height - 5, y)));
        previous = y;
      }
    });
    // Time.
    const from = data.from + first * data.width;
    const length = columns * data.width;
    const ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
    const tick = ticks.find((each) => (each / length) * width >= 90) || 86400 * Math.ceil(length / 86400 / 8);
    context.textBaseline = "top";
    context.textAlign = "center";
    for (let when = Math.ceil(from / tick) * tick; when <= from + length; when += tick) {
      const x = GUTTER + ((when - from) / length) * width;
      context.fillStyle = css("line");
      context.fillRect(x, height, 1, 4);
      context.fillStyle = css("dim");
      if (x > GUTTER + 24 && x < GUTTER + width - 24) context.fillText(clock(when, tick < 1 ? 2 : 0), x, height + 6);
    }
    // Lines that match the search.
    if (matcher) {
      const rowOf = new Map(visible.map((place, row) => [place, row]));
      context.strokeStyle = css("ink");
      context.lineWidth = 1.5;
      for (const line of shownLines.slice(-4000)) {
        const x = GUTTER + ((data.from + line[0] / 1000 - from) / length) * width;
        const y = (rowOf.get(line[1]) + 0.5) * size;
        context.strokeRect(x - 2, y - Math.min(5, size / 2 - 1), 4, Math.max(2, Math.min(10, size - 2)));
      }
    }
    // The first failure.
    const failure = data.failures[0];
    if (failure) {
      const x = GUTTER + ((failure.time - from) / length) * width;
      if (x >= GUTTER && x <= GUTTER + width) {
        context.strokeStyle = css("dead");
        context.lineWidth = 1;
        context.setLineDash([3, 3]);
        context.beginPath(); context.moveTo(x, 0); context.lineTo(x, height); context.stroke();
        context.setLineDash([]);
      }
    }
    context.strokeStyle = css("ink");
    if (cursor) {
      cursor = [Math.min(cursor[0], visible.length - 1), Math.max(first, Math.min(cursor[1], last - 1))];
      const cell = width / columns;
      context.strokeRect(GUTTER + (cursor[1] - first) * cell - 1, cursor[0] * size - 1, cell + 2, Math.max(3, size) + 1);
    }
    if (drag && drag.moved) {
      context.setLineDash([4, 3]);
      context.strokeRect(Math.min(drag.x, drag.toX), Math.min(drag.y, drag.toY), Math.abs(drag.toX - drag.x), Math.abs(drag.toY - drag.y));
      context.setLineDash([]);
    }
    const live = data.states.some((state) => state === "running");
    $("map-note").textContent = `${visible.length < data.ranks.length ? `${visible.filter((each) => data.ranks[each] >= 0).length} of ` : ""}${many(data.ranks.filter((rank) => rank >= 0).length, "rank")}, `
      + `${span(data.width)} a cell; click a rank, drag for a part`;
    $("legend").replaceChildren(
      ...LEVELS.map((name) => h("span", {}, h("i", { color: css(name) }), name)),
      ...(data.failures.length ? [h("span", {}, h("i", { color: css("dead") }), "dashed: first failure")] : []),
      ...(live && data.states.includes("silent") ? [h("span", {}, h("i", { color: css("silent") }), "silent")] : []));
  }
  function place(x, y) {
    const { count, size, width } = geometry();
    const [first, last] = bins();
    const row = Math.max(0, Math.min(count - 1, Math.floor(y / size)));
    const bin = Math.max(first, Math.min(last - 1, first + Math.floor(((x - GUTTER) / width) * (last - first))));
    return [row, bin];
  }
  function tell(row, bin, x, y) {
    const which = visible[row];
    if (which === undefined) { $("tip").hidden = true; return; }
    const { size } = geometry();
    let best = -1;
    let far = row;
    for (let each = row; each < Math.min(visible.length, row + Math.max(1, Math.round(1 / size))); each++) {
      best = Math.max(best, decode(data.rows[visible[each]][bin] ?? "."));
      far = each;
    }
    const low = 2 ** (best % 12);
    const about = best % 12 === 0 ? "1 line" : best % 12 === 11 ? `${low} lines or more` : `${low} to ${low * 2 - 1} lines`;
    const ranks = far > row ? `ranks ${data.ranks[which]}-${data.ranks[visible[far]]}` : data.ranks[which] < 0 ? "the client" : `rank ${data.ranks[which]}`;
    const state = far > row ? "" : `, ${data.states[which] || ""}`.replace(/, $/, "");
    $("tip").textContent = `${ranks}${state}\n${clock(data.from + bin * data.width, data.width < 1 ? 2 : 0)}  `
      + (best < 0 ? "nothing" : `${about}, highest: ${LEVELS[Math.floor(best / 12)]}`);
    $("tip").hidden = false;
    const box = $("map");
    $("tip").style.left = `${Math.min(x + 14 + box.offsetLeft, box.offsetLeft + box.clientWidth - $("tip").offsetWidth)}px`;
    $("tip").style.top = `${y + 16 + box.offsetTop}px`;
  }
  function selectRows(one, other) {
    const [low, high] = [Math.min(one, other), Math.max(one, other)];
    const ranks = visible.slice(low, high + 1).map((each) => data.ranks[each]);
    if (!ranks.length) return view.ranks;
    if (ranks.length === visible.length) return view.ranks;
    const parts = [];
    let begin = 0;
    for (let index = 1; index <= ranks.length; index++) {
      if (index < ranks.length && ranks[index] === ranks[index - 1] + 1 && ranks[begin] >= 0) continue;
      parts.push(begin === index - 1 ? rankName(ranks[begin]) : `${ranks[begin]}-${ranks[index - 1]}`);
      begin = index;
    }
    return parts.join(",");
  }
  const map = $("map");
  map.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, toX: event.offsetX, toY: event.offsetY, moved: false };
    map.setPointerCapture(event.pointerId);
  });
  map.addEventListener("pointermove", (event) => {
    if (!data) return;
    if (drag) {
      drag.toX = event.offsetX;
      drag.toY = event.offsetY;
      drag.moved = drag.moved || Math.hypot(drag.toX - drag.x, drag.toY - drag.y) > 5;
      if (drag.moved) { $("tip").hidden = true; drawMap(); return; }
    }
    tell(...place(event.offsetX, event.offsetY), event.offsetX, event.offsetY);
  });
  map.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  map.addEventListener("pointerup", () => {
    if (!data || !drag) return;
    const { moved, x, y, toX, toY } = drag;
    drag = null;
    const [row, bin] = place(x, y);
    if (!moved) { set({ ranks: selectRows(row, row) }); return; }
    const [otherRow, otherBin] = place(toX, toY);
    const ranks = Math.abs(toY - y) > 8 ? selectRows(row, otherRow) : view.ranks;
    const narrow = Math.abs(toX - x) <= 8;
    set({ ranks, ...(narrow ? {} : { from: data.from + Math.min(bin, otherBin) * data.width, to: data.from + (Math.max(bin, otherBin) + 1) * data.width }) });
  });
  map.addEventListener("dblclick", clear);
  map.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-20, 0], PageDown: [20, 0] };
    if (moves[event.key] && data) {
      event.preventDefault();
      const [row, bin] = cursor || [0, bins()[1] - 1];
      cursor = [Math.max(0, Math.min(visible.length - 1, row + moves[event.key][0])), bin + moves[event.key][1]];
      drawMap();
      const { size, width } = geometry();
      const [first, last] = bins();
      tell(...cursor, GUTTER + ((cursor[1] - first) / (last - first)) * width, cursor[0] * size);
    } else if (event.key === "Enter" && cursor) {
      set({ ranks: selectRows(cursor[0], cursor[0]) });
    }
  });

  // -- trouble ---------------------------------------------------------------------------------------------------------

  const about = (failure) => set({ ranks: failure.ranks, level: 0, text: "", from: failure.time - Math.max(5, data.width * 3), to: failure.time + Math.max(2, data.width * 2) });
  function report(time) {
    set({ ranks: "client", level: 40, text: "", from: null, to: null });
    choose(shownLines.findIndex((line) => Math.abs(data.from + line[0] / 1000 - time) < 0.002), true);
  }
  const ranksText = (text, count) => `${count === 1 ? "rank" : "ranks"} ${text}`;
  function fact(name, text, note, onclick, level = "") {
    return h("button", { class: `fact ${level}`, title: text, onclick }, h("b", {}, name), h("span", {}, text, note ? h("em", {}, `  ${note}`) : ""));
  }
  function some(name, all, make) {
    const made = all.slice(0, 5).map((each, index) => make(index ? "" : name, each));
    if (all.length > 5) {
      const more = h("button", { class: "fact", onclick: () => more.replaceWith(...all.slice(5).map((each) => make("", each))) },
        h("b", {}, ""), h("span", {}, `and ${all.length - 5} more`));
      made.push(more);
    }
    return made;
  }
  function drawTrouble() {
    const parts = [];
    if (data.failures.length) {
      const first = data.failures[0].time;
      const cards = data.failures.slice(0, 6).map((each, index) => h("button", { class: `failure${index ? "" : " first"}`, onclick: () => about(each) },
        h("span", { class: "what" }, each.text.split("\n")[0]),
        h("span", { class: "where" }, index
          ? `rank ${each.rank}, ${span(each.time - first)} later${each.rank_count > 1 ? `, in all ${ranksText(each.ranks, each.rank_count)}` : ""}; ${each.signature}`
          : `first: rank ${each.rank} at ${clock(each.time)}${each.rank_count > 1 ? `, in all ${ranksText(each.ranks, each.rank_count)}` : ""}; ${each.signature}`)));
      if (data.failures.length > 6) cards.push(h("div", { class: "none" }, `and ${data.failures.length - 6} more`));
      parts.push(h("div", { class: "failed" }, h("h2", {}, "Failures", h("small", {}, "the first in time first")), ...cards));
    }
    const facts = [
      ...some("reported", data.reports, (name, [time, text]) => fact(name, text, `at ${clock(time, 0)}`, () => report(time), "l3")),
      ...some("silent", data.silent, (name, [rank, seconds, line]) => fact(name, `rank ${rank}: ${line.split("\n")[0]}`, `for ${span(seconds)}`, () => set({ ranks: String(rank) }))),
      ...some("behind", data.behind, (name, each) =>
        fact(name, `${each.label}: ${each.values.map(([rank, value]) => `rank ${rank} at ${number(value)}`).join(", ")}; median ${number(each.median)}`,
          each.rank_count > each.values.length ? `in all ${many(each.rank_count, "rank")}` : "", () => set({ ranks: each.ranks }))),
      ...some("missing", data.missing, (name, each) => fact(name, each.text.split("\n")[0], `${ranksText(each.missing, each.missing_count)}; reached by ${each.reached}`, () => set({ ranks: each.missing }))),
      ...some("only", data.different, (name, each) => fact(name, `${nameOf(each.level)} ${each.text.split("\n")[0]}`, `only ${ranksText(each.ranks, /[-,]/.test(each.ranks) ? 2 : 1)}`, () => set({ ranks: each.ranks }))),
    ];
    if (facts.length) parts.push(h("div", {}, h("h2", {}, "What stands out"), ...facts));
    $("trouble").hidden = !parts.length;
    $("trouble").replaceChildren(...parts);
  }

  // -- progress --------------------------------------------------------------------------------------------------------

  function drawProgress() {
    $("progress-box").hidden = !data.progress.length;
    const ranges = view.ranks.trim() ? parseRanks(view.ranks) : null;
    const made = data.progress.map((each) => {
      const canvas = h("canvas", {});
      const late = each.behind.length ? h("span", { class: "late" }, `behind: ${each.at.filter(([rank]) => each.behind.includes(rank)).slice(0, 3).map(([rank, value]) => `${rank} at ${number(value)}`).join(", ")}${each.behind.length > 3 ? ", ..." : ""}`) : "";
      const low = each.low.at(-1) ?? 0;
      const high = each.high.at(-1) ?? 0;
      const box = h("div", { class: "curve" }, h("div", { class: "top", title: each.label }, h("b", {}, each.label),
        h("span", {}, low === high ? number(low) : `${number(low)}..${number(high)}`, each.rate ? `, ${number(Number(each.rate.toPrecision(3)))}/s` : ""), late), canvas);
      return [box, canvas, each];
    });
    $("progress").replaceChildren(...made.map(([box]) => box));
    for (const [, canvas, each] of made) drawCurve(canvas, each, ranges);
  }
  function drawCurve(canvas, curve, ranges) {
    const width = canvas.clientWidth;
    const height = 96;
    const context = canvasOf(canvas, width, height);
    const numbers = [...curve.low, ...curve.high].filter((value) => value !== null);
    const least = Math.min(...numbers);
    const most = Math.max(...numbers);
    const x = (bin) => 2 + ((bin + 0.5) / curve.low.length) * (width - 36);
    const y = (value) => 6 + (1 - (value - least) / (most - least || 1)) * (height - 12);
    context.fillStyle = css("empty");
    context.beginPath();
    curve.high.forEach((value, bin) => value !== null && context.lineTo(x(bin), y(value)));
    for (let bin = curve.low.length - 1; bin >= 0; bin--) if (curve.low[bin] !== null) context.lineTo(x(bin), y(curve.low[bin]));
    context.fill();
    const trace = (points, color, thickness) => {
      context.strokeStyle = color;
      context.lineWidth = thickness;
      context.beginPath();
      for (const [bin, value] of points) context.lineTo(x(bin), y(value));
      context.stroke();
    };
    const behind = new Set(curve.behind);
    context.globalAlpha = 0.45;
    for (const [rank, points] of curve.curves) if (!behind.has(rank)) trace(points, css("info"), 0.8);
    context.globalAlpha = 1;
    trace(curve.median.map((value, bin) => [bin, value]).filter(([, value]) => value !== null), css("ink"), 1.2);
    context.textBaseline = "middle";
    const labels = [];
    for (const [rank, points] of curve.curves) {
      const chosen = ranges && within(rank, ranges);
      if (!behind.has(rank) && !chosen) continue;
      trace(points, css(behind.has(rank) ? "warning" : "accent"), 1.8);
      const [bin, value] = points.at(-1);
      context.fillStyle = css(behind.has(rank) ? "warning" : "accent");
      const [left, middle] = [Math.min(x(bin) + 4, width - 28), y(value)];
      if (labels.some(([otherLeft, other]) => Math.abs(otherLeft - left) < 30 && Math.abs(other - middle) < 11)) continue;
      labels.push([left, middle]);
      context.fillText(String(rank), left, middle);
    }
  }

  // -- groups ----------------------------------------------------------------------------------------------------------

  function overlaps(text, ranges) {
    const own = text ? parseRanks(text) : [[-1, -1]];
    return own && own.some(([low, high]) => ranges.some(([from, to]) => low <= to && from <= high));
  }
  function patternOf(text) {
    const parts = text.split("\n")[0].split(/(-?\d[\w.,:+/-]*|\{[^}]*\}|\/[\w./-]+)/);
    return `/^${parts.map((part, index) => (index % 2 ? ".+?" : part.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&").replace(/ +/g, " +"))).join("")}/`;
  }
  function drawGroups(ranges, test) {
    // A group has ranges in the place of numbers: it matches if one of its lines does.
    const some = test ? [...new Set(shownLines.slice(0, 3000).map((line) => line[4]))].slice(0, 300).map((text) => headline(data.texts[text])[0]) : [];
    const hasLine = (group) => { const like = makeMatcher(patternOf(group.text)); return like && some.some((line) => like(line) !== null); };
    const found = data.groups.filter((each) => each.level >= view.level && (!ranges || overlaps(each.ranks, ranges))
      && (!test || test(each.text) !== null || view.text === patternOf(each.text) || hasLine(each))
      && (view.from === null || (each.last >= view.from && each.first <= view.to)));
    $("groups").tBodies[0].replaceChildren(...found.map((each) => h("tr", { title: each.text, tabIndex: 0, onclick: () => set({ text: patternOf(each.text) }) },
      h("td", { class: "n" }, each.count.toLocaleString("en")),
      h("td", { title: `${ranksText(each.ranks, each.rank_count)}, first: rank ${each.first_rank} at ${clock(each.first)}` }, each.rank_count === data.ranks.filter((rank) => rank >= 0).length && each.rank_count > 1 ? "all" : each.ranks || "client"),
      h("td", { class: `lv l${classOf(each.level)}` }, nameOf(each.level)),
      h("td", { class: `l${classOf(each.level)}` }, each.text.split("\n")[0]))));
    $("groups-note").textContent = `${many(found.length, "kind")} of lines with their ranges; click one to find its lines`
      + (data.ungrouped ? `; ${many(data.ungrouped, "line")} in none of these` : "");
  }
  $("groups").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.tagName === "TR") event.target.click();
  });

  // -- lines -----------------------------------------------------------------------------------------------------------

  function drawLines() {
    const box = $("lines");
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 5);
    const last = Math.min(shownLines.length, first + Math.ceil(box.clientHeight / ROW) + 10);
    const made = [];
    for (let index = first; index < last; index++) {
      const [ms, where, level, source, text, count] = shownLines[index];
      const [line, rest] = headline(data.texts[text]);
      const name = data.sources[source];
      const hit = matcher ? matcher(line) : null;
      const content = hit && hit[1] <= line.length ? [line.slice(0, hit[0]), h("mark", {}, line.slice(hit[0], hit[1])), line.slice(hit[1])] : [line];
      const guess = data.estimated && (name === "stdout" || name === "stderr") ? "~" : "";
      const row = h("div", { class: `row${index === at ? " at" : ""}`, role: "option", onclick: () => choose(index) },
        h("span", { class: "t" }, guess + clock(data.from + ms / 1000)), h("span", { class: "r" }, rankName(data.ranks[where])),
        h("span", { class: `lv l${classOf(level)}` }, nameOf(level)), h("span", { class: "s" }, name),
        h("span", { class: `l${classOf(level)}` }, ...content, rest ? `  (+${many(rest, "line")})` : "", count > 1 ? `  (${count} times)` : ""));
      row.style.top = `${index * ROW}px`;
      made.push(row);
    }
    const space = $("space");
    space.replaceChildren(...made);
    if (!shownLines.length) space.replaceChildren(h("div", { class: "none" }, data.lines.length ? "No line matches the filters." : "Nothing was received yet."));
  }
  function choose(index, scroll = false) {
    if (!shownLines.length) return;
    at = Math.max(0, Math.min(shownLines.length - 1, index));
    const box = $("lines");
    if (scroll) {
      if (at * ROW < box.scrollTop) box.scrollTop = at * ROW;
      if ((at + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (at + 1) * ROW - box.clientHeight;
    }
    drawLines();
    const [ms, where, level, source, text] = shownLines[at];
    $("detail").hidden = false;
    $("detail").textContent = `${clock(data.from + ms / 1000)}  ${data.ranks[where] < 0 ? "client" : `rank ${data.ranks[where]}`}  ${nameOf(level)}  ${data.sources[source]}\n\n${data.texts[text]}`;
  }
  function nextError(step) {
    for (let index = at + step; index >= 0 && index < shownLines.length; index += step) {
      if (shownLines[index][2] >= 40) { choose(index, true); return; }
    }
  }
  $("lines").addEventListener("scroll", drawLines);

  function drawRank() {
    const box = $("rank");
    box.hidden = visible.length !== 1 || data.ranks.length === 1;
    if (box.hidden) return;
    const place = visible[0];
    const rank = data.ranks[place];
    const facts = [`${data.states[place] || "no state"}`, many(data.counts[place], "line"), many(data.warnings[place], "warning"), many(data.errors[place], "error"),
      `last at ${clock(data.seen[place])}`];
    for (const each of data.progress) {
      const own = each.at.find(([of]) => of === rank);
      if (own) facts.push(`${each.label} ${number(own[1])}`);
    }
    box.replaceChildren(h("b", {}, rank < 0 ? "the client" : `rank ${rank}`), facts.join(" · "));
  }

  // -- the whole -------------------------------------------------------------------------------------------------------

  function draw() {
    $("title").textContent = data.title;
    document.title = `${data.failures.length ? "✗ " : ""}${data.title} - meshlog`;
    const count = data.ranks.filter((rank) => rank >= 0).length;
    $("meta").textContent = `${many(count, "rank")}, ${many(data.total, "line")}`
      + (data.bins ? `, ${new Date(data.from * 1000).toLocaleDateString("sv")} ${clock(data.from, 0)}, ${span(data.bins * data.width)}` : "")
      + (data.dropped ? `, ${data.dropped.toLocaleString("en")} dropped` : "")
      + (data.missed ? `, ${data.missed.toLocaleString("en")} not seen here (${data.missed_errors.toLocaleString("en")} errors)` : "")
      + (data.estimated ? `, times with ~ are estimates` : "");
    const states = new Map();
    data.states.forEach((state) => state && states.set(state, (states.get(state) || 0) + 1));
    const colors = { dead: "dead", unreachable: "dead", silent: "silent", stopped: "stopped", running: "ok", ended: "ended" };
    $("chips").replaceChildren(...Object.keys(colors).filter((state) => states.has(state)).map((state) =>
      h("button", { class: "chip", title: `Show these ranks`, onclick: () => set({ ranks: rangesOf(state) }) }, h("i", { color: css(colors[state]) }), `${states.get(state).toLocaleString("en")} ${state}`)));
    drawTrouble();
    apply();
  }
  function rangesOf(state) {
    const parts = [];
    let begin = null;
    data.ranks.forEach((rank, index) => {
      if (data.states[index] !== state) { begin = null; return; }
      if (begin !== null && parts.length && data.ranks[index - 1] === rank - 1) parts[parts.length - 1] = `${begin}-${rank}`;
      else { begin = rank; parts.push(String(rank)); }
    });
    return parts.join(",");
  }
  function take(fresh) {
    const box = $("lines");
    const kept = data && at >= 0 ? shownLines[at] : null;
    const scrolled = data && box.scrollTop + box.clientHeight < box.scrollHeight - ROW ? box.scrollTop : null;
    data = fresh;
    draw();
    if (kept) {
      const index = shownLines.findIndex((line) => line[0] === kept[0] && line[1] === kept[1]);
      if (index >= 0) choose(index);
    }
    if (scrolled !== null) { box.scrollTop = scrolled; drawLines(); }
  }

  function theme(name) {
    document.documentElement.dataset.theme = name;
    if (data) draw();
  }
  const KEYS = [["/", "search"], ["r", "choose ranks"], ["l", "next level"], ["f", "first failure"], ["j k", "next and previous line"],
    ["n p", "next and previous error"], ["Esc", "clear the filters"], ["m", "the map; then arrows, Enter"], ["t", "light or dark"],
    ["space", "stop or continue live updates"], ["?", "this list"]];
  $("keys").append(h("h2", {}, "Keys"), h("table", {}, h("tbody", {}, ...KEYS.map(([keys, does]) => h("tr", {}, h("td", {}, ...keys.split(" ").map((key) => h("kbd", {}, key))), h("td", {}, does))))));
  function pause() {
    paused = !paused;
    $("pause").textContent = paused ? "continue" : "pause";
    if (!paused && pending) { take(pending); pending = null; }
  }
  const LIST = [0, 20, 30, 40, 50];
  const actions = {
    "/": () => $("f-text").focus(), r: () => $("f-ranks").focus(), m: () => map.focus(),
    l: () => set({ level: LIST[(LIST.indexOf(view.level) + 1) % LIST.length] }),
    f: () => data.failures.length && about(data.failures[0]),
    j: () => choose(at + 1, true), k: () => choose(at - 1, true), n: () => nextError(1), p: () => nextError(-1),
    t: () => $("theme").click(), " ": () => data.live && pause(), "?": () => $("keys").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !data || $("keys").open) return;
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      clear();
    } else if (!typing && actions[event.key] && !(event.key === " " && event.target.tagName === "BUTTON")) {
      event.preventDefault();
      actions[event.key]();
    } else if (event.target === $("lines") && ["ArrowDown", "ArrowUp"].includes(event.key)) {
      event.preventDefault();
      choose(at + (event.key === "ArrowDown" ? 1 : -1), true);
    }
  });
  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(apply, data && data.lines.length > 5000 ? 150 : 30); };
  $("f-ranks").addEventListener("input", (event) => { view.ranks = event.target.value; soon(); });
  $("f-text").addEventListener("input", (event) => { view.text = event.target.value; soon(); });
  $("f-level").addEventListener("change", (event) => set({ level: Number(event.target.value) }));
  $("f-time").addEventListener("change", (event) => {
    const found = parseTime(event.target.value);
    if (found) set({ from: found[0], to: found[1] });
    else { set({ from: null, to: null }); if (event.target.value) event.target.className = "bad"; }
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", clear);
  $("pause").addEventListener("click", pause);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  window.addEventListener("resize", () => data && (drawMap(), drawProgress(), drawLines()));
  document.documentElement.dataset.theme = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

  const embedded = JSON.parse($("data").textContent);
  if (embedded) {
    take(embedded);
  } else {
    $("title").textContent = "waiting for the run";
    const status = $("live");
    status.hidden = $("pause").hidden = false;
    status.textContent = "connecting";
    const source = new EventSource("events");
    source.onmessage = (event) => {
      const fresh = JSON.parse(event.data);
      status.textContent = fresh.over ? "the run has ended" : "live";
      if (fresh.over) { source.close(); $("pause").hidden = true; }
      if (paused) pending = fresh;
      else take(fresh);
    };
    source.onerror = () => { status.textContent = "not connected"; };
  }
})();
