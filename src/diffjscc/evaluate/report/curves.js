// SPDX-License-Identifier: GPL-3.0-or-later
// Curves: one panel a metric, one curve a system and channel.
"use strict";

{
  const WIDTH = 440, HEIGHT = 270, LEFT = 48, RIGHT = 12, TOP = 10, BOTTOM = 38;
  const state = {
    x: snrs.length > 1 ? "snr" : "rate",
    rate: rates[0], snr: snrs[0], channel: channels.length > 1 ? null : channels[0], hidden: new Set(),
  };
  const panels = document.getElementById("panels");
  const tip = document.getElementById("tip");
  const measures = [...data.metrics, { key: "share_sent", label: `Share of images ${data.words.sent}`, digits: 2, lower: false }];

  // Curves of the chosen points: {system, channel, points in order of x}.
  function curves() {
    const chosen = data.points.filter((point) =>
      (state.x === "snr" ? point.rate === state.rate : point.snr_db === state.snr) &&
      (state.channel === null || point.channel === state.channel));
    const found = [];
    for (const system of data.systems) {
      for (const channel of channels) {
        const points = chosen.filter((point) => point.system === system && point.channel === channel && point.rows);
        if (points.length) found.push({ system, channel, points: points.sort((a, b) => xOf(a) - xOf(b)) });
      }
    }
    return found;
  }

  const xOf = (point) => (state.x === "snr" ? point.snr_db : Math.log2(point.rate_value));
  const nameOf = (curve) => (state.channel === null ? `${curve.system}, ${curve.channel}` : curve.system);

  // About five round numbers between two values.
  function ticks(low, high) {
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const made = [];
    for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) made.push(value);
    return { made, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  function mark(kind, x, y, colour, hollow) {
    const style = { fill: hollow ? "var(--panel)" : colour, stroke: colour, "stroke-width": 2 };
    if (kind === "circle") return drawn("circle", { cx: x, cy: y, r: 4, ...style });
    const paths = { square: "M-4,-4h8v8h-8z", diamond: "M0,-5.4L5.4,0L0,5.4L-5.4,0z", triangle: "M0,-5L5,4H-5z" };
    return drawn("path", { d: paths[kind], transform: `translate(${x},${y})`, ...style });
  }

  function panel(measure) {
    const all = curves();
    const visible = all.filter((curve) => !state.hidden.has(nameOf(curve)));
    const arrow = measure.key === "share_sent" ? "" : measure.lower ? "less is better" : "more is better";
    const box = element("div", { class: "panel" }, element("h3", {}, measure.label + " ", element("small", {}, arrow)));
    const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": measure.label });
    box.append(svg);
    const xs = unique(all.flatMap((curve) => curve.points.map(xOf))).sort(byValue);
    const values = all.flatMap((curve) => curve.points.map((point) => point[measure.key])).filter((value) => value !== null);
    if (!xs.length) return box;
    let [low, high] = measure.key === "share_sent" ? [0, 1] : values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
    if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
    const room = measure.key === "share_sent" ? 0.04 : 0.07;
    [low, high] = [low - room * (high - low), high + room * (high - low)];
    const span = xs[xs.length - 1] - xs[0] || 1;
    const atX = (x) => LEFT + 10 + (WIDTH - LEFT - RIGHT - 20) * (xs.length > 1 ? (x - xs[0]) / span : 0.5);
    const atY = (y) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low);
    const { made, digits } = ticks(low, high);
    for (const value of made) {
      svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: atY(value), y2: atY(value) }));
      svg.append(drawn("text", { x: LEFT - 7, y: atY(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
    }
    svg.append(drawn("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
    for (const x of xs) {
      const name = state.x === "snr" ? x : rates.find((rate) => Math.abs(Math.log2(rateValue(rate)) - x) < 1e-9);
      svg.append(drawn("text", { x: atX(x), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(name)));
    }
    svg.append(drawn("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" },
      state.x === "snr" ? "SNR, dB" : "rate, channel uses per pixel"));
    const spots = [];
    for (const curve of visible) {
      const colour = colourOf(curve.system);
      const kind = MARKS[channels.indexOf(curve.channel) % MARKS.length];
      const dash = { 0: "none", 1: "7 4", 2: "2 4", 3: "9 3 2 3" }[channels.indexOf(curve.channel)] ?? "none";
      // A gap in the curve where nothing arrived.
      let path = "", open = false;
      for (const point of curve.points) {
        const value = point[measure.key];
        path += value === null ? "" : `${open ? "L" : "M"}${atX(xOf(point))},${atY(value)}`;
        open = value !== null;
      }
      svg.append(drawn("path", { class: "curve", d: path, stroke: colour, "stroke-dasharray": dash }));
      for (const point of curve.points) {
        const value = point[measure.key], x = atX(xOf(point));
        const y = value === null ? HEIGHT - BOTTOM - 6 : atY(value);
        const shape = value === null
          ? drawn("path", { d: "M-4,-4L4,4M-4,4L4,-4", transform: `translate(${x},${y})`, stroke: colour, "stroke-width": 2.4 })
          : mark(kind, x, y, colour, point.share_sent < 1);
        svg.append(shape);
        spots.push({ x, y, curve, point, shape });
      }
    }
    hover(svg, spots, measure);
    return box;
  }

  // The values of the nearest point follow the pointer.
  function hover(svg, spots, measure) {
    let near = null;
    const leave = () => { near?.shape.classList.remove("near"); near = null; tip.hidden = true; };
    svg.addEventListener("pointermove", (event) => {
      const area = svg.getBoundingClientRect();
      const x = (event.clientX - area.left) * WIDTH / area.width, y = (event.clientY - area.top) * HEIGHT / area.height;
      const distance = (spot) => Math.hypot(spot.x - x, spot.y - y);
      const nearest = spots.reduce((best, spot) => (best && distance(best) <= distance(spot) ? best : spot), null);
      if (!nearest || distance(nearest) > 60) return leave();
      near?.shape.classList.remove("near");
      near = nearest;
      near.shape.classList.add("near");
      const point = near.point;
      tip.textContent = `${near.curve.system}\n${point.channel}, rate ${point.rate}, ${point.snr_db} dB\n` +
        `${measure.label}: ${written(point[measure.key], measure.digits)}\n${data.words.sent}: ${point.sent} of ${point.rows}`;
      tip.hidden = false;
      const flip = event.clientX > window.innerWidth - 260;
      tip.style.left = flip ? "auto" : `${event.clientX + 16}px`;
      tip.style.right = flip ? `${window.innerWidth - event.clientX + 16}px` : "auto";
      tip.style.top = `${event.clientY + 14}px`;
    });
    svg.addEventListener("pointerleave", leave);
  }

  function redraw() {
    panels.replaceChildren(...measures.map(panel));
    const legend = document.getElementById("legend");
    legend.replaceChildren(...curves().map((curve) => {
      const name = nameOf(curve);
      const swatch = element("span", { class: "swatch", style: `background:${colourOf(curve.system)}` });
      const toggle = () => { state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name); redraw(); };
      return element("button", { type: "button", "aria-pressed": String(!state.hidden.has(name)), onclick: toggle }, swatch, name);
    }));
  }

  function controls() {
    const set = (key) => (value) => { state[key] = value; controls(); redraw(); };
    const made = [];
    if (snrs.length > 1 && rates.length > 1) {
      made.push(choice("over", ["snr", "rate"], state.x, set("x"), (x) => ({ snr: "SNR", rate: "rate" })[x]));
    }
    if (state.x === "snr" && rates.length > 1) made.push(choice("at rate", rates, state.rate, set("rate")));
    if (state.x === "rate" && snrs.length > 1) made.push(choice("at", snrs, state.snr, set("snr"), decibels));
    if (channels.length > 1) {
      made.push(choice("channel", [null, ...channels], state.channel, set("channel"), (channel) => channel ?? "all"));
    }
    document.getElementById("curve-controls").replaceChildren(...made);
  }

  controls();
  redraw();
}
