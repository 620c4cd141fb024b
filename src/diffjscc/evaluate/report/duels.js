// SPDX-License-Identifier: GPL-3.0-or-later
// Joint coding against separate coding: sentences, and a bar a point, to the left where the joint system loses.
"use strict";

{
  if (data.duels.length) {
    document.getElementById("verdicts").append(...data.verdicts.map((line) => element("li", {}, line)));
    const heads = ["Joint", "Separate", "Channel", "Rate", "SNR, dB", "Both send", "Only joint", "PSNR gain, dB", ""];
    document.querySelector("#pairs thead").append(element("tr", {}, ...heads.map((head) => element("th", { class: "plain" }, head))));
    const largest = Math.max(1e-9, ...data.duels.map((duel) => Math.abs(duel.gain_db ?? 0)));
    document.querySelector("#pairs tbody").append(...data.duels.map((duel) => {
      const gain = duel.gain_db, lost = gain !== null && gain < 0;
      const width = gain === null ? 0 : 50 * Math.abs(gain) / largest;
      const bar = element("div", { class: lost ? "bar lost" : "bar", style: `width:${width}%;${lost ? "right" : "left"}:50%` });
      return element("tr", {},
        ...[duel.joint, duel.separate, duel.channel, duel.rate, duel.snr_db, `${duel.both} of ${duel.rows}`, duel.only_joint]
          .map((text) => element("td", {}, String(text))),
        element("td", { class: lost ? "few" : "" }, gain === null ? "—" : `${gain > 0 ? "+" : ""}${gain.toFixed(2)}`),
        element("td", { class: "bars" }, element("div", {}, bar)));
    }));
  } else {
    document.getElementById("duels").hidden = true;
    document.querySelector('nav a[href="#duels"]').hidden = true;
  }
}
