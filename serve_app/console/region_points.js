// The points of zones and lines: pairs of fractions of the picture's width and height.

const SHAPES = {
  zone: [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]],
  line: [[0.5, 0.8], [0.5, 0.2]],
};
const APART = 0.08; // of the width, between shapes that would lie exactly on each other

export function fraction(value) {
  return Math.round(Math.min(Math.max(value, 0), 1) * 10_000) / 10_000;
}

/** Return the points of a shape in the middle of the picture, beside the shapes that are already there. */
export function middleShape(kind, regions) {
  let points = SHAPES[kind];
  const isUsed = () => regions.some((region) => String(region.points) === String(points));
  for (let n = 0; isUsed() && n < 7; n += 1) points = points.map(([x, y]) => [fraction(x + APART), y]);
  return structuredClone(points);
}

/** Return the points after a move of the one with this index, or of all if it is null. None leaves the picture. */
export function moved(points, index, dx, dy) {
  const move = ([x, y]) => [fraction(x + dx), fraction(y + dy)];
  if (index !== null) return points.map((point, other) => (other === index ? move(point) : point));
  const isInside = ([x, y]) => x + dx >= 0 && x + dx <= 1 && y + dy >= 0 && y + dy <= 1;
  return points.every(isInside) ? points.map(move) : points;
}

/** Return the points with one more in the middle of the edge that begins at this index. */
export function withPoint(points, index) {
  const next = points[(index + 1) % points.length];
  return points.toSpliced(index + 1, 0, [0, 1].map((axis) => fraction((points[index][axis] + next[axis]) / 2)));
}
