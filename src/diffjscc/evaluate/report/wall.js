// SPDX-License-Identifier: GPL-3.0-or-later
// The wall of images: each a wipe between two systems at one rate, SNR and channel.
"use strict";

{
  const ORIGINAL = "original";
  const systems = [...data.systems, ORIGINAL];
  const state = {
    first: data.systems[0], second: data.duels[0]?.separate ?? data.systems[1] ?? ORIGINAL,
    rate: rates[0], snr: snrs[snrs.length - 1], channel: channels[0],
  };
  const wall = document.getElementById("wall");
  const tiles = [];

  // What arrived of an image by a system at the chosen point: {uri, text}.
  function found(image, system) {
    if (system === ORIGINAL) return { uri: data.blobs[image.original], text: "" };
    const index = data.points.findIndex((point) => point.system === system && point.rate === state.rate &&
      point.snr_db === state.snr && point.channel === state.channel);
    const received = image.received[index];
    if (!received) return { uri: null, none: "not computed", text: "" };
    if (!received.sent) return { uri: null, none: data.words.cannot, text: data.words.cannot };
    const shown = data.metrics.filter((metric) => ["psnr_db", "ms_ssim", "lpips_alex"].includes(metric.key));
    const text = shown.map((metric) => `${metric.label.replace(", dB", "")} ${written(received[metric.key], metric.digits)}` +
      (metric.key === "psnr_db" ? " dB" : "")).join(" · ");
    return { uri: data.blobs[received.blob] ?? null, none: "not kept", text };
  }

  function tile(image) {
    const sides = ["second", "first"].map((side) => element("div", { class: `side ${side}` }));
    const tags = ["first", "second"].map((side) => element("div", { class: `tag ${side}` }));
    const input = element("input", { type: "range", min: 0, max: 100, step: 1, value: 50, "aria-label": `wipe of ${image.name}` });
    const wipe = element("div", { class: "wipe", style: `aspect-ratio:${image.width}/${image.height};--at:50%` },
      ...sides, element("div", { class: "line" }), ...tags, input);
    const place = (share) => {
      wipe.style.setProperty("--at", `${100 * share}%`);
      input.value = 100 * share;
    };
    const follow = (event) => {
      const area = wipe.getBoundingClientRect();
      place(Math.min(1, Math.max(0, (event.clientX - area.left) / area.width)));
    };
    // The press would take the focus from the slider that the arrow keys move.
    wipe.addEventListener("mousedown", (event) => event.preventDefault());
    wipe.addEventListener("pointerdown", (event) => { wipe.setPointerCapture(event.pointerId); input.focus(); follow(event); });
    wipe.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
    input.addEventListener("input", () => place(input.value / 100));
    const texts = [element("span"), element("span", { class: "name" }, image.name), element("span")];
    const figure = element("figure", {}, wipe, element("figcaption", {}, ...texts));
    const show = () => {
      for (const [side, system, tag, text] of [
        [sides[1], state.first, tags[0], texts[0]],
        [sides[0], state.second, tags[1], texts[2]],
      ]) {
        const { uri, none, text: values } = found(image, system);
        side.replaceChildren(uri
          ? element("img", { src: uri, alt: `${image.name}, ${system}`, draggable: "false" })
          : element("div", { class: "none" }, element("span", {}, none)));
        tag.textContent = system;
        text.replaceChildren(values);
      }
    };
    tiles.push(show);
    return figure;
  }

  function controls() {
    const set = (key) => (value) => { state[key] = value; tiles.forEach((show) => show()); };
    const made = [
      choice("left", systems, state.first, set("first")),
      choice("right", systems, state.second, set("second")),
    ];
    if (snrs.length > 1) made.push(slider("SNR", snrs, state.snr, set("snr"), decibels));
    if (rates.length > 1) made.push(slider("rate", rates, state.rate, set("rate"), String));
    if (channels.length > 1) made.push(choice("channel", channels, state.channel, set("channel")));
    document.getElementById("wall-controls").replaceChildren(...made);
  }

  if (data.images.length) {
    controls();
    wall.append(...data.images.map(tile));
    tiles.forEach((show) => show());
  } else {
    document.getElementById("images").hidden = true;
    document.querySelector('nav a[href="#images"]').hidden = true;
  }
}
