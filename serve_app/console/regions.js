// Zones and lines of a stream, drawn on its picture by mouse, touch or keyboard. Saving them loses no frame.

import { button, element, setError, setText, svg } from "./elements.js";
import { call, path, poll } from "./http.js";
import { notify } from "./notices.js";
import { Previews } from "./previews.js";
import { drawDraft, drawRegion, spreadCaptions } from "./region_shapes.js";
import { countsText, fromApi, regionCard, toApi } from "./region_fields.js";
import { fraction, middleShape, moved, withPoint } from "./region_points.js";

const STEP = 0.01; // of the width or height, for an arrow key; a tenth of it with Shift

export function showRegions(page, id) {
  let regions = [];
  let chosen = null;
  let chosenPoint = null; // the index of one of its points
  let draft = null; // { kind, points } while a new region is drawn
  let saved = null; // the JSON of the regions that the stream has, once it is known
  let seen = null; // the JSON of the regions that another page has saved meanwhile, once the user knows
  let labels = []; // of all models
  const options = element("datalist", { id: "labels" });
  const canvas = element("canvas", { role: "img", "aria-label": `The newest frame of ${id}` });
  [canvas.width, canvas.height] = [1280, 720]; // until the first frame is there
  const layer = svg("svg", { "aria-label": "Zones and lines", role: "group", tabindex: "-1" });
  const board = element("div.board", {}, canvas, layer);
  const hint = element("p.muted", { role: "status" });
  const problem = element("p.problem", { role: "alert" });
  const cards = element("div.stack");
  const save = button("Save", store, { class: "primary", disabled: true });
  const discard = button("Discard changes", load, { disabled: true });
  const reload = button("", load);
  const remedy = element("div.row", { hidden: true }, reload);
  const addZone = button("Add a zone", (event) => begin("zone", event), { disabled: true });
  const addLine = button("Add a line", (event) => begin("line", event), { disabled: true });
  const finish = button("Finish the zone", finishDraft, { hidden: true });
  const cancel = button("Cancel", cancelDraft, { hidden: true });
  const addPoint = button("Add a point", () => insertPoint(chosen, chosenPoint), { hidden: true });
  const removePoint = button("Remove the point", () => deletePoint(chosen, chosenPoint), { hidden: true });
  const previews = new Previews({ onFrame: onFrame });
  const address = path("streams", id, "regions");
  let drawnSize = "";

  page.append(
    element("p", {}, element("a", { href: `#${path("streams", id)}` }, id)),
    element("div.row.spread", {}, element("h1", {}, "Zones and lines"), element("div.row", {}, discard, save)),
    problem,
    remedy,
    options,
    element(
      "div.two",
      {},
      element(
        "div.card",
        {},
        element("div.row", {}, addZone, addLine),
        hint,
        board,
        element("div.row", {}, finish, cancel, addPoint, removePoint), // below, so that the picture stays where it is
      ),
      cards,
    ),
  );
  previews.add(id, canvas);
  layer.addEventListener("pointerdown", onDown);
  layer.addEventListener("dblclick", finishDraft);
  layer.addEventListener("pointermove", onHover);
  layer.addEventListener("keydown", onKey);
  layer.addEventListener("focusin", onFocus);
  document.addEventListener("keydown", onEscape);
  const resized = new ResizeObserver(draw);
  resized.observe(board);
  load();
  readLabels();
  const stop = poll(count, 1);
  return Object.assign(close, { isUnsaved: isChanged });

  function close() {
    stop();
    previews.close();
    resized.disconnect();
    document.removeEventListener("keydown", onEscape);
  }

  async function load() {
    try {
      accept(await call(address));
      await count();
    } catch (error) {
      fail(error, saved === null ? "Try again" : "");
    }
  }

  /** Show the regions that the stream has. */
  function accept(found) {
    saved = JSON.stringify(found);
    seen = null;
    draft = null;
    regions = fromApi(found);
    fail({ message: "" });
    choose(regions.find(({ name }) => name === chosen?.name) ?? null);
  }

  async function readLabels() {
    const { models } = await call("/models").catch(() => ({ models: [] })); // the key may not list them
    labels = [...new Set(models.flatMap((model) => model.labels ?? []))];
    options.replaceChildren(...labels.map((value) => element("option", { value })));
    if (regions.length) choose(chosen);
  }

  async function store() {
    const sent = toApi(regions);
    try {
      const now = JSON.stringify(await call(address));
      if (now !== saved && now !== seen) {
        seen = now;
        const reason = "The zones have been changed meanwhile. Load them, or press Save again to replace them.";
        return fail(new Error(reason), "Load the changed zones");
      }
      showCounts(await call(address, { method: "PUT", json: sent }));
      fail({ message: "" });
      const found = await call(address);
      if (JSON.stringify(toApi(regions)) === JSON.stringify(sent)) accept(found);
      else saved = JSON.stringify(found); // something was changed during the call
      notify("Saved. The stream counts from now on.");
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

  function showCounts(status) {
    for (const region of regions) region.counts = countsText(region, status);
    [...layer.querySelectorAll("g.region")].forEach((group, index) =>
      setText(group.querySelector(".count"), regions[index]?.counts ?? ""),
    );
    spreadCaptions(layer, size());
  }

  /** Show an error at the fields that it names, and the rest of it above the picture. `text` is that of a button. */
  function fail(error, text = "") {
    let first = null;
    const rest = Object.entries(error.byField?.() ?? { "": error.message }).map(([name, reason]) => {
      const [, kind, index, key] = /^(zone|line)s\.(\d+)\.?(\w*)/.exec(name) ?? [];
      const region = regions.filter((one) => one.kind === kind)[index];
      const control = cards.children[regions.indexOf(region)]?.controls[key];
      first ??= control;
      if (control) setError(control, reason);
      return control ? "" : `${region?.name ?? name}: ${reason}`.replace(/^: /, "");
    });
    setText(problem, rest.filter(Boolean).join("; "));
    setText(reload, text);
    remedy.hidden = !text;
    first?.focus();
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
    const focused = regionOf(document.activeElement);
    const { index } = document.activeElement.dataset;
    layer.setAttribute("viewBox", `0 0 ${width} ${height}`);
    layer.replaceChildren(...regions.map((one) => drawRegion(one, size(), scale, one === chosen, chosenPoint)));
    spreadCaptions(layer, size());
    if (draft) layer.append(drawDraft(draft.points, size()));
    if (focused) focusPoint(focused, index);
    board.classList.toggle("drawing", Boolean(draft));
    finish.hidden = draft?.kind !== "zone" || draft.points.length < 4;
    cancel.hidden = !draft;
    addPoint.hidden = Boolean(draft) || chosenPoint === null || chosen?.kind !== "zone";
    removePoint.hidden = addPoint.hidden || chosen.points.length < 4;
    setText(hint, sentence());
  }

  /** Return the region to which a part of the drawing belongs. */
  function regionOf(part) {
    return regions[[...layer.children].indexOf(part.closest("g.region"))];
  }

  function focusPoint(region, index) {
    layer.children[regions.indexOf(region)].querySelector(`[data-index="${index}"]`)?.focus();
  }

  function sentence() {
    if (draft?.kind === "zone")
      return "Click the corners of the zone. Finish with a double click or with Enter; Escape cancels.";
    if (draft?.kind === "line") return "Click where the line starts, and then where it ends. Escape cancels.";
    return "Drag points, or move them with the arrow keys (Shift: less). Delete removes a point, and + adds one.";
  }

  function isChanged() {
    return saved !== null && JSON.stringify(toApi(regions)) !== saved;
  }

  function refresh() {
    addZone.disabled = addLine.disabled = saved === null;
    save.disabled = discard.disabled = !isChanged();
    draw();
  }

  /** Choose a region and make all cards again. */
  function choose(region) {
    chosen = region;
    chosenPoint = null;
    const made = regions.map((one) =>
      regionCard(one, one === chosen, labels, {
        onChange: refresh,
        onChoose: () => mark(one),
        onRemove: () => removeRegion(one),
        onReverse: () => reverse(one),
      }),
    );
    const none = "There are no zones or lines yet. The stream counts objects in each zone and across each line.";
    cards.replaceChildren(...(made.length ? made : [element("p.card.muted", {}, none)]));
    refresh();
  }

  /** Choose a region without replacing the field that has the focus. */
  function mark(region, index = null) {
    chosen = region;
    chosenPoint = index;
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
      add(kind, middleShape(kind, regions));
      focusPoint(chosen, 0);
    } else {
      draft = { kind, points: [[0, 0]] }; // the last point follows the pointer
      layer.focus({ preventScroll: true });
      draw();
    }
  }

  function add(kind, points) {
    let number = 1;
    while (regions.some(({ name }) => name === `${kind} ${number}`)) number += 1;
    const region = { kind, name: `${kind} ${number}`, points, labels: "", confidence: "", original: {} };
    regions.push(region);
    regions.sort((a, b) => (a.kind === "line") - (b.kind === "line")); // the order of the API
    draft = null;
    choose(region);
  }

  function finishDraft() {
    if (draft?.kind !== "zone") return;
    const placed = draft.points.slice(0, -1);
    const points = placed.filter((point, index) => !index || distance_px(point, placed[index - 1]) > 3);
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
    if (event.button || saved === null) return;
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
    const region = regionOf(event.target);
    if (!region) return mark(null);
    const { index } = event.target.dataset;
    drag(event, region, index === undefined ? null : Number(index));
  }

  /** Move a point of a region, or all of it, with the pointer. */
  function drag(event, region, index) {
    event.preventDefault();
    mark(region, index);
    if (index !== null) focusPoint(region, index);
    const [from, before] = [place(event), structuredClone(region.points)];
    layer.setPointerCapture(event.pointerId);
    const onMove = (now) => {
      const to = place(now);
      region.points = moved(before, index, to[0] - from[0], to[1] - from[1]);
      refresh();
    };
    layer.addEventListener("pointermove", onMove);
    const end = () => layer.removeEventListener("pointermove", onMove);
    layer.addEventListener("lostpointercapture", end, { once: true });
  }

  function onFocus({ target }) {
    const region = regionOf(target);
    const index = Number(target.dataset.index);
    if (region && (region !== chosen || index !== chosenPoint)) mark(region, index);
  }

  function insertPoint(region, index) {
    region.points = withPoint(region.points, index);
    refresh();
  }

  function deletePoint(region, index) {
    region.points = region.points.toSpliced(index, 1);
    mark(region);
    refresh();
  }

  function onKey(event) {
    const index = Number(event.target.dataset.index);
    const region = regionOf(event.target);
    if (!region || Number.isNaN(index)) return;
    const step = event.shiftKey ? STEP / 10 : STEP;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      region.points = moved(region.points, index, ...moves[event.key]);
      refresh();
    } else if (["Delete", "Backspace"].includes(event.key) && region.kind === "zone" && region.points.length > 3) {
      deletePoint(region, index);
    } else if (["+", "Insert"].includes(event.key) && region.kind === "zone") {
      insertPoint(region, index);
    } else {
      return;
    }
    event.preventDefault();
  }

  function onEscape(event) {
    if (!draft) return;
    if (event.key === "Enter") finishDraft();
    if (event.key === "Escape") cancelDraft();
  }

  function cancelDraft() {
    draft = null;
    refresh();
  }
}
