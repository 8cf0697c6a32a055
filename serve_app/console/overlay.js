// Draws what a model found as SVG over an image: boxes, masks, keypoints with limbs, and rotated boxes.

import { svg } from "./elements.js";

// Pairs of COCO's 17 keypoints of people, between which a limb is drawn. The order is that of the COCO dataset.
const LIMBS = [
  [15, 13],
  [13, 11],
  [16, 14],
  [14, 12],
  [11, 12],
  [5, 11],
  [6, 12],
  [5, 6],
  [5, 7],
  [6, 8],
  [7, 9],
  [8, 10],
  [1, 2],
  [0, 1],
  [0, 2],
  [1, 3],
  [2, 4],
  [3, 5],
  [4, 6],
];
const VISIBLE = 0.5; // keypoints with a lower confidence are not drawn, as in the server's drawings
const MAX_LABEL = 24; // characters on the image; the list of detections has the whole label
const GOLDEN_ANGLE = 137.508; // successive classes get hues that are far apart

/** Return the colour of a class. */
export function colourOf(classId) {
  return `hsl(${Math.round(200 + classId * GOLDEN_ANGLE) % 360} 85% 66%)`;
}

/**
 * Return an SVG over an image of this size in pixels. It has a group for each detection, in their order, and above all
 * of them the labels, the first on top.
 */
export function overlay(size, detections, label) {
  const layer = svg("svg.overlay", {
    viewBox: `0 0 ${size.width} ${size.height}`,
    role: "img",
    "aria-label": label,
  });
  layer.append(...detections.map(drawing), ...detections.map(caption).reverse());
  return layer;
}

/**
 * Place the labels. Their size on the screen does not depend on the size of the image. A label is above its box, or
 * else inside at the top, or else below: the first place in the image that covers no earlier label.
 */
export function placeLabels(layer) {
  const { width: shown_px } = layer.getBoundingClientRect();
  if (!shown_px) return;
  const scale = layer.viewBox.baseVal.width / shown_px;
  const height = 17 * scale;
  const taken = []; // the edges of the plates that are placed
  for (const group of [...layer.querySelectorAll("g.caption")].reverse()) {
    const [plate, text] = [group.querySelector("rect.plate"), group.querySelector("text")];
    text.setAttribute("font-size", 12 * scale);
    const width = text.getComputedTextLength() + 10 * scale;
    const x = Math.max(0, Math.min(Number(group.dataset.x), layer.viewBox.baseVal.width - width));
    const [y1, y2] = [group.dataset.y1, group.dataset.y2].map(Number);
    const inside = [y1 - height, y1, y2].filter((one) => one >= 0 && one + height <= layer.viewBox.baseVal.height);
    const isFree = (y) =>
      taken.every((one) => x >= one.x + one.width || one.x >= x + width || Math.abs(y - one.y) >= height);
    const y = inside.find(isFree) ?? Math.max(0, y1 - height);
    taken.push({ x, y, width });
    for (const [name, value] of Object.entries({ x, y, width, height, rx: 3 * scale })) plate.setAttribute(name, value);
    text.setAttribute("x", x + 5 * scale);
    text.setAttribute("y", y + 12.5 * scale);
  }
  for (const point of layer.querySelectorAll("circle")) point.setAttribute("r", 3.5 * scale);
}

function drawing(one) {
  const { x1, y1, x2, y2 } = one.bbox;
  const colour = colourOf(one.class_id);
  const shapes = [];
  for (const outline of one.segments ?? []) shapes.push(polygon("polygon.mask", outline, colour));
  if (one.obb) shapes.push(polygon("polygon.box", corners(one.obb), colour));
  else shapes.push(svg("rect.box", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, stroke: colour }));
  const points = one.keypoints ?? [];
  if (points.length === 17)
    shapes.push(...LIMBS.filter(([a, b]) => seen(points, a, b)).map(([a, b]) => limb(points[a], points[b], colour)));
  shapes.push(
    ...points
      .filter(([, , confidence]) => confidence > VISIBLE)
      .map(([cx, cy]) => svg("circle", { cx, cy, fill: colour })),
  );
  return svg("g.found", {}, svg("title", {}, one.label), ...shapes);
}

function caption(one) {
  return svg(
    "g.caption",
    { "data-x": one.bbox.x1, "data-y1": one.bbox.y1, "data-y2": one.bbox.y2 },
    svg("rect.plate", { fill: colourOf(one.class_id) }),
    svg("text", {}, `${shortened(one.label)} ${one.confidence.toFixed(2)}`),
  );
}

function shortened(label) {
  return label.length > MAX_LABEL ? `${label.slice(0, MAX_LABEL)}…` : label;
}

function polygon(tag, points, colour) {
  return svg(tag, { points: points.map((point) => point.join(",")).join(" "), stroke: colour, fill: colour });
}

function corners(obb) {
  return [1, 2, 3, 4].map((number) => [obb[`x${number}`], obb[`y${number}`]]);
}

function seen(points, a, b) {
  return points[a][2] > VISIBLE && points[b][2] > VISIBLE;
}

function limb([x1, y1], [x2, y2], colour) {
  return svg("line.limb", { x1, y1, x2, y2, stroke: colour });
}
