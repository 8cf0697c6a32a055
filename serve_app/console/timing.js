// Shows where the milliseconds of a request went, as one stacked bar with a legend.

import { element } from "./elements.js";

const STAGES = ["decode", "queue", "inference", "postprocess"];

/** Return the bar. `roundTrip_ms` is what the browser measured, and so includes the network. */
export function timingBar(timing, roundTrip_ms) {
  const parts = STAGES.map((stage) => [stage, timing[stage]]);
  const known_ms = parts.reduce((sum, [, value]) => sum + value, 0);
  parts.push(["other work of the server", Math.max(timing.total - known_ms, 0)]);
  parts.push(["network and browser", Math.max(roundTrip_ms - timing.total, 0)]);
  const bar = element("div.timing-bar", { "aria-hidden": "true" });
  const legend = element("ul.legend");
  parts.forEach(([name, value], index) => {
    const piece = element(`span.part.part-${index}`, { title: `${name} ${milliseconds(value)}` });
    piece.style.flexGrow = String(value);
    bar.append(piece);
    legend.append(
      element("li", {}, element(`span.dot.part-${index}`), `${name} `, element("b", {}, milliseconds(value))),
    );
  });
  return element(
    "section.card.timing",
    { "aria-label": "Time" },
    element("div.row.spread", {}, element("h2", {}, "Time"), element("b", {}, milliseconds(roundTrip_ms))),
    bar,
    legend,
  );
}

export function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
