// SPDX-License-Identifier: GPL-3.0-or-later
// The sweep's data, and what all parts of the page need.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// Colours that people with any colour vision tell apart (Okabe and Ito, 2008), then some more.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7b61c4", "#b0a800", "#7a7f85"];
const MARKS = ["circle", "square", "diamond", "triangle"];

const unique = (values) => [...new Set(values)];
const byValue = (a, b) => a - b;
const channels = unique(data.points.map((point) => point.channel));
const snrs = unique(data.points.map((point) => point.snr_db)).sort(byValue);
const rates = unique(data.points.map((point) => point.rate)).sort((a, b) => rateValue(a) - rateValue(b));

function rateValue(rate) {
  return data.points.find((point) => point.rate === rate).rate_value;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function choice(label, values, chosen, onchange, name = (value) => value) {
  const select = element("select", { onchange: () => onchange(values[select.selectedIndex]) });
  for (const value of values) select.append(element("option", { selected: value === chosen }, String(name(value))));
  return element("label", {}, label, select);
}

// A slider over a list of values.
function slider(label, values, chosen, oninput, name) {
  const shown = element("output", {}, name(chosen));
  const range = element("input", {
    type: "range", min: 0, max: values.length - 1, step: 1, value: values.indexOf(chosen), "aria-label": label,
    oninput: () => { shown.textContent = name(values[range.value]); oninput(values[range.value]); },
  });
  range.value = values.indexOf(chosen);
  return element("label", {}, label, range, shown);
}

const written = (value, digits) => (value === null || value === undefined ? "—" : value.toFixed(digits));
const decibels = (value) => `${value} dB`;
const percent = (share) => `${Math.round(100 * share)} %`;

function colourOf(system) {
  return COLOURS[data.systems.indexOf(system) % COLOURS.length];
}

document.getElementById("summary").textContent =
  `${data.systems.length} ${data.systems.length === 1 ? "system" : "systems"}, ${data.images_in_all} images, ` +
  `each sent ${data.repeats === 1 ? "once" : data.repeats + " times"} at every point; ${data.points.length} points.`;
for (const word of document.querySelectorAll("[data-word]")) word.textContent = data.words[word.dataset.word];
for (const note of data.notes) document.getElementById("notes").append(element("li", {}, note));
