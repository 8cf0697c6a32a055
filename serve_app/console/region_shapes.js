// Draws zones and lines over a picture. Their points are fractions of its width and height.

import { svg } from "./elements.js";

/**
 * Return the drawing of a zone or a line on a picture of `size` in pixels. `scale`: its pixels per screen pixel.
 * `chosenPoint` is the index of a point, if the region is chosen.
 */
export function drawRegion(region, size, scale, isChosen, chosenPoint) {
  const points = region.points.map(([x, y]) => [x * size.width, y * size.height]);
  const shapes = region.kind === "zone" ? zoneShapes(points) : lineShapes(points, scale);
  const isTouched = matchMedia("(pointer: coarse)").matches;
  const handles = points.map(([cx, cy], index) =>
    svg(`circle.handle${isChosen && index === chosenPoint ? ".chosen" : ""}`, {
      cx,
      cy,
      r: (isTouched ? 11 : 7) * scale,
      tabindex: "0",
      role: "button",
      "data-index": index,
      "aria-label": `${region.name}, ${pointName(region, index)}. Arrow keys move it.`,
    }),
  );
  const [x, y] = captionPlace(region, points, scale);
  const name = svg("text", { x, y, "font-size": 14 * scale }, region.name);
  const count = svg("text.count", { x, y: y + 17 * scale, "font-size": 13 * scale }, region.counts ?? "");
  const caption = svg("g.caption", {}, name, count);
  return svg(`g.region.${region.kind}${isChosen ? ".chosen" : ""}`, {}, ...shapes, caption, ...handles);
}

/** Move the captions that would lie on each other or beyond the picture. */
export function spreadCaptions(layer, size) {
  const taken = [...layer.querySelectorAll(".in")].map((word) => word.getBBox());
  for (const caption of layer.querySelectorAll(".caption")) {
    const { x, y, width, height } = caption.getBBox();
    const dx = Math.max(-x, 0) - Math.max(x + width - size.width, 0);
    const steps = Array.from({ length: 40 }, (_, n) => ((n % 2 ? n + 1 : -n) * height) / 4); // 0, half of it down, up
    const at = (dy) => ({ x: x + dx, y: y + dy, width, height });
    const isFree = (dy) => y + dy >= 0 && y + dy + height <= size.height && !taken.some((one) => meet(one, at(dy)));
    const dy = steps.find(isFree) ?? 0;
    caption.setAttribute("transform", `translate(${dx} ${dy})`);
    taken.push(at(dy));
  }
}

function meet(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

/** Return the shape of points that are being placed, with a last one under the pointer. */
export function drawDraft(points, size) {
  const placed = points.map(([x, y]) => `${x * size.width},${y * size.height}`).join(" ");
  return svg(points.length > 2 ? "polygon.draft" : "polyline.draft", { points: placed });
}

function zoneShapes(points) {
  return [svg("polygon.shape", { points: points.map((point) => point.join(",")).join(" ") })];
}

/** Seen along the line, a crossing from left to right is "in": the arrow points to the right of the line. */
function lineShapes([[x1, y1], [x2, y2]], scale) {
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  const [along_x, along_y] = [(x2 - x1) / length, (y2 - y1) / length];
  const [right_x, right_y] = [-along_y, along_x]; // y points down
  const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
  const [reach, barb] = [34 * scale, 9 * scale];
  const [tip_x, tip_y] = [x + right_x * reach, y + right_y * reach];
  const ends = [-1, 1].map((side) => [
    tip_x - right_x * barb + side * along_x * barb,
    tip_y - right_y * barb + side * along_y * barb,
  ]);
  const arrow = `M${x} ${y}L${tip_x} ${tip_y}M${ends[0].join(" ")}L${tip_x} ${tip_y}L${ends[1].join(" ")}`;
  const place = { x: tip_x + right_x * 14 * scale, y: tip_y + (right_y * 14 + 4) * scale };
  const word = svg("text.in", { ...place, "font-size": 13 * scale }, "in");
  const ends_of_line = { x1, y1, x2, y2 };
  return [svg("line.grab", ends_of_line), svg("line.shape", ends_of_line), svg("path.arrow", { d: arrow }), word];
}

/** The caption is in the middle of a zone, and on the left of a line, away from the arrow. */
function captionPlace(region, points, scale) {
  const middle = [0, 1].map((axis) => points.reduce((total, point) => total + point[axis], 0) / points.length);
  if (region.kind === "zone") return middle;
  const [[x1, y1], [x2, y2]] = points;
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  return [middle[0] + ((y2 - y1) / length) * 40 * scale, middle[1] - ((x2 - x1) / length) * 40 * scale];
}

function pointName(region, index) {
  if (region.kind === "line") return index ? "end" : "start";
  return `point ${index + 1} of ${region.points.length}`;
}
