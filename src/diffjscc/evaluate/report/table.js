// SPDX-License-Identifier: GPL-3.0-or-later
// The table of points: sorted by any column, filtered by words.
"use strict";

{
  const columns = [
    { label: "System", value: (point) => point.system },
    { label: "Channel", value: (point) => point.channel },
    { label: "Rate", value: (point) => point.rate_value, text: (point) => point.rate },
    { label: "SNR, dB", value: (point) => point.snr_db },
    { label: data.words.sent[0].toUpperCase() + data.words.sent.slice(1), value: (point) => point.share_sent, text: (point) => `${point.sent} of ${point.rows}` },
    ...data.metrics.map((metric) => ({
      label: metric.label, value: (point) => point[metric.key], text: (point) => written(point[metric.key], metric.digits),
    })),
  ];
  const state = { column: null, down: false };
  const head = document.querySelector("#points thead"), body = document.querySelector("#points tbody");
  const filter = document.getElementById("filter");

  function compare(a, b) {
    const [x, y] = [a, b].map(columns[state.column].value);
    // What has no value comes last in either order.
    if (x === null || y === null) return (x === null) - (y === null);
    return (state.down ? -1 : 1) * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
  }

  function fill() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let points = data.points.filter((point) => point.rows);
    const text = (point) => `${point.system} ${point.channel} ${point.rate} ${point.snr_db} db`.toLowerCase();
    points = points.filter((point) => words.every((word) => text(point).includes(word)));
    if (state.column !== null) points = [...points].sort(compare);
    body.replaceChildren(...points.map((point) => {
      const cells = columns.map((column) => element("td", {}, String((column.text ?? column.value)(point))));
      if (point.share_sent < 1) cells[4].className = "few";
      return element("tr", {}, ...cells);
    }));
    [...head.querySelectorAll("th")].forEach((cell, index) => {
      if (index === state.column) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }

  head.append(element("tr", {}, ...columns.map((column, index) => element("th", {}, element("button", {
    type: "button",
    onclick: () => { state.down = state.column === index && !state.down; state.column = index; fill(); },
  }, column.label)))));
  filter.addEventListener("input", fill);
  fill();
}
