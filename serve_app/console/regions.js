// Zones and lines of a stream, drawn on its picture by mouse, touch or keyboard. Saving them loses no frame.

import { button, element, setText, svg } from "./elements.js";
import { call, path, poll } from "./http.js";
import { notify } from "./notices.js";
import { Previews } from "./previews.js";
import { drawDraft, drawRegion } from "./region_shapes.js";
import { fromApi, regionCard, toApi } from "./region_fields.js";
import { longest } from "./stream.js";

const STEP = 0.01; // of the width or height, for an arrow key; a tenth of it with Shift
const DEFAULT_ZONE = [
  [0.3, 0.3],
  [0.7, 0.3],
  [0.7, 0.7],
  [0.3, 0.7],
];
const DEFAULT_LINE = [
  [0.5, 0.8],
  [0.5, 0.2],
];

export function showRegions(page, id) {
  let regions = [];
  let chosen = null;
  let draft = null; // { kind, points } while a new region is drawn
  let saved = "[]";
  const canvas = element("canvas", {
    role: "img",
    "aria-label": `The newest frame of ${id}`,
    width: 1280,
    height: 720,
  });
  const layer = svg("svg", { "aria-label": "Zones and lines", role: "group", tabindex: "-1" });
  const board = element("div.board", {}, canvas, layer);
  const hint = element("p.muted", { role: "status" });
  const problem = element("p.problem", { role: "alert", hidden: true });
  const cards = element("div.stack");
  const save = button("Save", store, { class: "primary" });
  const discard = button("Discard changes", load);
  const finish = button("Finish the zone", finishDraft, { hidden: true });
  const previews = new Previews({ onFrame: onFrame });
  let drawnSize = "";

  page.append(
    element("p", {}, element("a", { href: `#${path("streams", id)}` }, id)),
    element("div.row.spread", {}, element("h1", {}, "Zones and lines"), element("div.row", {}, discard, save)),
    problem,
    element(
      "div.two",
      {},
      element(
        "div.card",
        {},
        element(
          "div.row",
          {},
          button("Add a zone", (event) => begin("zone", event)),
          button("Add a line", (event) => begin("line", event)),
          finish,
        ),
        hint,
        board,
      ),
      cards,
    ),
  );
  previews.add(id, canvas);
  layer.addEventListener("pointerdown", onDown);
  layer.addEventListener("dblclick", finishDraft);
  layer.addEventListener("pointermove", onHover);
  layer.addEventListener("keydown", onKey);
  document.addEventListener("keydown", onEscape);
  const resized = new ResizeObserver(draw);
  resized.observe(board);
  load();
  const stop = poll(count, 1);
  return () => {
    stop();
    previews.close();
    resized.disconnect();
    document.removeEventListener("keydown", onEscape);
  };

  async function load() {
    try {
      regions = fromApi(await call(path("streams", id, "regions")));
      saved = JSON.stringify(toApi(regions));
      problem.hidden = true;
      choose(null);
      await count();
    } catch (error) {
      fail(error);
    }
  }

  async function store() {
    try {
      showCounts(await call(path("streams", id, "regions"), { method: "PUT", json: toApi(regions) }));
      saved = JSON.stringify(toApi(regions));
      problem.hidden = true;
      notify("Saved. The stream counts from now on.");
      refresh();
    } catch (error) {
      fail(error);
    }
  }

  async function count() {
    try {
      showCounts(await call(path("streams", id)));
    } catch (error) {
      if (error.status === 404) fail(error);
    }
  }

  function showCounts({ zones, lines }) {
    for (const region of regions) {
      const found = region.kind === "zone" ? zones[region.name] : lines[region.name];
      if (!found) region.counts = "";
      else if (region.kind === "zone")
        region.counts = `${found.inside} inside${longest(found) && `, up to ${longest(found)}`}`;
      else region.counts = `${found.crossed_in} in, ${found.crossed_out} out`;
    }
    [...layer.querySelectorAll("g.region")].forEach((group, index) =>
      setText(group.querySelector(".count"), regions[index]?.counts ?? ""),
    );
  }

  function fail(error) {
    problem.hidden = false;
    setText(problem, error.message);
  }

  function size() {
    return { width: canvas.width, height: canvas.height };
  }

  function onFrame() {
    const now = `${canvas.width} ${canvas.height}`;
    if (now !== drawnSize) draw();
  }

  function draw() {
    const { width, height } = size();
    drawnSize = `${width} ${height}`;
    board.style.maxWidth = `calc(${width / height} * 76vh)`; // so that a high picture fits the window
    const scale = width / (board.getBoundingClientRect().width || width);
    const group = document.activeElement?.closest("g.region");
    const focused = group && regions[[...layer.children].indexOf(group)];
    const index = document.activeElement?.dataset.index;
    layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
    layer.replaceChildren(...regions.map((region) => drawRegion(region, size(), scale, region === chosen)));
    if (draft) layer.append(drawDraft(draft.points, size()));
    if (focused) layer.children[regions.indexOf(focused)].querySelector(`[data-index="${index}"]`)?.focus();
    board.classList.toggle("drawing", Boolean(draft));
    finish.hidden = draft?.kind !== "zone" || draft.points.length < 4;
    setText(hint, sentence());
  }

  function sentence() {
    if (draft?.kind === "zone")
      return "Click the corners of the zone. Finish with a double click or with Enter; Escape cancels.";
    if (draft?.kind === "line") return "Click where the line starts, and then where it ends. Escape cancels.";
    return "Drag points, or move them with the arrow keys (Shift: less). Delete removes a point, and + adds one.";
  }

  function refresh() {
    const isChanged = JSON.stringify(toApi(regions)) !== saved;
    save.disabled = discard.disabled = !isChanged;
    draw();
  }

  /** Choose a region and make all cards again. */
  function choose(region) {
    chosen = region;
    const made = regions.map((one) =>
      regionCard(one, one === chosen, {
        onChange: refresh,
        onChoose: () => mark(one),
        onRemove: () => removeRegion(one),
        onReverse: () => reverse(one),
      }),
    );
    cards.replaceChildren(
      ...(made.length
        ? made
        : [
            element(
              "p.card.muted",
              {},
              "There are no zones or lines yet. The stream counts objects in each zone and across each line.",
            ),
          ]),
    );
    refresh();
  }

  /** Choose a region without replacing the field that has the focus. */
  function mark(region) {
    chosen = region;
    [...cards.children].forEach((card, index) => card.classList.toggle("chosen", regions[index] === region));
    draw();
  }

  function removeRegion(region) {
    regions = regions.filter((one) => one !== region);
    choose(null);
  }

  function reverse(region) {
    region.points.reverse();
    refresh();
  }

  /** Start to draw. A button that was pressed by keyboard places a shape that the arrow keys can change. */
  function begin(kind, event) {
    if (event.detail === 0) {
      add(kind, structuredClone(kind === "zone" ? DEFAULT_ZONE : DEFAULT_LINE));
      layer.lastChild.querySelector(".handle").focus();
    } else {
      draft = { kind, points: [[0, 0]] }; // the last point follows the pointer
      layer.focus({ preventScroll: true });
      draw();
    }
  }

  function add(kind, points) {
    const names = new Set(regions.map(({ name }) => name));
    let number = 1;
    while (names.has(`${kind} ${number}`)) number += 1;
    const region = { kind, name: `${kind} ${number}`, points, labels: "", confidence: "", original: {} };
    regions.push(region);
    draft = null;
    choose(region);
  }

  function finishDraft() {
    if (draft?.kind !== "zone") return;
    const points = draft.points
      .slice(0, -1)
      .filter((point, index, all) => !index || distance_px(point, all[index - 1]) > 3);
    if (points.length >= 3) add("zone", points);
  }

  /** Return the place of the pointer as fractions of the picture. */
  function place(event) {
    const { left, top, width, height } = board.getBoundingClientRect();
    return [fraction((event.clientX - left) / width), fraction((event.clientY - top) / height)];
  }

  function distance_px(a, b) {
    const { width, height } = board.getBoundingClientRect();
    return Math.hypot((a[0] - b[0]) * width, (a[1] - b[1]) * height);
  }

  function onHover(event) {
    if (!draft) return;
    draft.points[draft.points.length - 1] = place(event);
    draw();
  }

  function onDown(event) {
    if (draft) {
      event.preventDefault();
      const point = place(event);
      draft.points[draft.points.length - 1] = point;
      if (draft.kind === "line" && draft.points.length === 2) {
        if (distance_px(...draft.points) > 3) add("line", draft.points);
        return;
      }
      if (draft.points.length > 3 && distance_px(point, draft.points[0]) < 12) return finishDraft();
      draft.points.push(point);
      return draw();
    }
    const group = event.target.closest("g.region");
    if (!group) return mark(null);
    const region = regions[[...layer.children].indexOf(group)];
    const index = event.target.dataset.index;
    drag(event, region, index === undefined ? null : Number(index));
  }

  /** Move a point of a region, or all of it, with the pointer. */
  function drag(event, region, index) {
    event.preventDefault();
    mark(region);
    if (index !== null) layer.children[regions.indexOf(region)].querySelector(`[data-index="${index}"]`).focus();
    const [from, before] = [place(event), structuredClone(region.points)];
    layer.setPointerCapture(event.pointerId);
    const onMove = (moved) => {
      const to = place(moved);
      shift(region, before, index, to[0] - from[0], to[1] - from[1]);
      refresh();
    };
    layer.addEventListener("pointermove", onMove);
    const end = () => layer.removeEventListener("pointermove", onMove);
    layer.addEventListener("lostpointercapture", end, { once: true });
  }

  function shift(region, before, index, dx, dy) {
    const move = ([x, y]) => [fraction(x + dx), fraction(y + dy)];
    if (index !== null) {
      region.points[index] = move(before[index]);
      return;
    }
    const isInside = ([x, y]) => x + dx >= 0 && x + dx <= 1 && y + dy >= 0 && y + dy <= 1;
    if (before.every(isInside)) region.points = before.map(move);
  }

  function onKey(event) {
    const index = Number(event.target.dataset.index);
    const group = event.target.closest("g.region");
    if (!group || Number.isNaN(index)) return;
    const region = regions[[...layer.children].indexOf(group)];
    const step = event.shiftKey ? STEP / 10 : STEP;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    chosen = region;
    if (moves[event.key]) {
      shift(region, region.points, index, ...moves[event.key]);
    } else if (["Delete", "Backspace"].includes(event.key) && region.kind === "zone" && region.points.length > 3) {
      region.points.splice(index, 1);
    } else if (["+", "Insert"].includes(event.key) && region.kind === "zone") {
      const next = region.points[(index + 1) % region.points.length];
      region.points.splice(
        index + 1,
        0,
        [0, 1].map((axis) => fraction((region.points[index][axis] + next[axis]) / 2)),
      );
    } else {
      return;
    }
    event.preventDefault();
    mark(region);
    refresh();
  }

  function onEscape(event) {
    if (!draft) return;
    if (event.key === "Enter") finishDraft();
    if (event.key !== "Escape") return;
    draft = null;
    draw();
  }
}

function fraction(value) {
  return Math.round(Math.min(Math.max(value, 0), 1) * 10_000) / 10_000;
}
