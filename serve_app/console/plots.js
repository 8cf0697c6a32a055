// Small plots as SVG: a histogram of times, and a curve of the last minutes.

import { element, svg } from "./elements.js";
import { milliseconds } from "./timing.js";
import { number } from "./words.js";

const [WIDTH, HEIGHT] = [300, 100];

/** Return a histogram of times. The last bucket has no upper bound. Empty buckets at the edges are left out. */
export function histogram(title, { bounds_ms, counts }) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total)
    return element("figure.stack", {}, element("figcaption", {}, title), element("p.muted", {}, "No images yet."));
  const first = Math.max(counts.findIndex((count) => count > 0) - 1, 0);
  const last = Math.min(counts.length - 1, counts.findLastIndex((count) => count > 0) + 1);
  const shown = counts.slice(first, last + 1);
  const step = WIDTH / shown.length;
  const highest = Math.max(...shown);
  const columns = shown.map((count, index) => {
    const height = (count / highest) * (HEIGHT - 4);
    const column = svg("rect.column", {
      x: index * step + 1,
      y: HEIGHT - height,
      width: Math.max(step - 2, 1),
      height,
      rx: 2,
    });
    column.append(svg("title", {}, `${range(bounds_ms, first + index)}: ${count}`));
    return column;
  });
  const median = quantile(bounds_ms, counts, 0.5);
  const p95 = quantile(bounds_ms, counts, 0.95);
  const summary = `median ${median}, 95% ${p95}`;
  return element(
    "figure.stack",
    {},
    element("figcaption", {}, title, element("div.muted", {}, summary)),
    plot(`${title}: ${summary}`, columns),
    element(
      "div.plot-labels",
      { "aria-hidden": "true" },
      element("span", {}, first ? milliseconds(bounds_ms[first - 1]) : "0 ms"),
      element("span", {}, total === 1 ? "1 image" : `${number(total)} images`),
      element(
        "span",
        {},
        last < bounds_ms.length ? milliseconds(bounds_ms[last]) : `over ${milliseconds(bounds_ms.at(-1))}`,
      ),
    ),
  );
}

/** Return the curve of the last `span_s` seconds. A point is a pair of a time in seconds and a value. */
export function curve(title, points, span_s, unit) {
  const values = points.map(([, value]) => value);
  const highest = Math.max(...values, 1e-9);
  const [now_s, newest] = points.at(-1);
  const drawn = points.length === 1 ? [[now_s - 2, newest], points[0]] : points; // one point is no curve
  const corners = drawn.map(
    ([at_s, value]) => `${WIDTH * (1 - (now_s - at_s) / span_s)},${HEIGHT - 2 - (value / highest) * (HEIGHT - 8)}`,
  );
  return element(
    "figure.stack",
    {},
    element(
      "figcaption",
      {},
      title,
      element(
        "div.muted",
        {},
        `now ${newest.toFixed(1)} ${unit}, highest ${Math.max(...values).toFixed(1)} ${unit}`,
      ),
    ),
    plot(title, [svg("polyline.curve", { points: corners.join(" ") })]),
    element(
      "div.plot-labels",
      { "aria-hidden": "true" },
      element("span", {}, `${Math.round(span_s / 60)} min ago`),
      element("span", {}, "now"),
    ),
  );
}

function plot(label, shapes) {
  const axis = svg("line.axis", { x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT });
  return svg(
    "svg.plot",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    ...shapes,
    axis,
  );
}

function range(bounds_ms, index) {
  if (index >= bounds_ms.length) return `over ${milliseconds(bounds_ms.at(-1))}`;
  return `${index ? milliseconds(bounds_ms[index - 1]) : "0 ms"} to ${milliseconds(bounds_ms[index])}`;
}

/** Return the upper bound of the bucket that holds this share of the images. */
function quantile(bounds_ms, counts, share) {
  const wanted = counts.reduce((sum, count) => sum + count, 0) * share;
  let sum = 0;
  const index = counts.findIndex((count) => (sum += count) >= wanted);
  return index < bounds_ms.length ? `≤ ${milliseconds(bounds_ms[index])}` : `over ${milliseconds(bounds_ms.at(-1))}`;
}
