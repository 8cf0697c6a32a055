// The page "Try it": detect objects in an image, and see what the model finds and how long it takes.

import { button, element, field, setOptions } from "./elements.js";
import { call, send, url } from "./http.js";
import { notifyError } from "./notices.js";
import { colourOf, overlay, placeLabels } from "./overlay.js";
import { hasKeys } from "./session.js";
import { snippets, tabs } from "./snippets.js";
import { timingBar } from "./timing.js";

const SAMPLES = [
  ["parcels.jpg", "Parcels"],
  ["belt.jpg", "Belt"],
  ["floor.jpg", "Floor"],
];
const PAUSE_MS = 120; // after the last move of a slider

export function show(page) {
  let models = [{ name: "default", labels: [] }];
  let picture = null; // { blob, name, isSample, url, isBroken }; isBroken: this browser cannot show it
  let newest = 0; // counts choices of images, so that a sample that arrives late does not replace a later choice
  let latest = null; // { result, roundTrip_ms }
  let running = null; // the AbortController of the request in flight
  let timer = 0;
  let openTab = "curl";

  const stage = element("div.stage");
  const problem = element("p.problem", { role: "alert", hidden: true });
  const summary = element("p.muted", { role: "status" });
  const findings = element("ul.findings", { "aria-label": "Detections" });
  const details = element("div.stack");
  const file = element("input.offscreen", {
    type: "file",
    accept: "image/*",
    tabindex: "-1",
    "aria-hidden": "true",
    change: chosen,
  });
  const photo = element("input.offscreen", {
    type: "file",
    accept: "image/*",
    capture: "environment",
    tabindex: "-1",
    "aria-hidden": "true",
    change: chosen,
  });
  const confidence = slider(0.5, 0.01);
  const iou = slider(0.7, 0);
  const model = element("select", { change: onModel });
  const labels = element("fieldset.labels", { change: soon });
  const search = element("input", {
    type: "search",
    placeholder: "Find a class",
    "aria-label": "Find a class",
    input: onSearch,
  });
  const classesTitle = element("summary", {}, "Classes: all");
  const iouField = field("IoU", iou.input, "", iou.row);

  page.append(
    element("h1", {}, "Try it"),
    element(
      "div.two.try",
      {},
      element(
        "div.stack",
        {},
        element(
          "div.card.drop",
          {},
          element(
            "div.row.spread",
            {},
            element(
              "div.row",
              {},
              button("Choose an image", () => file.click(), { class: "primary" }),
              button("Take a photo", () => photo.click(), { class: "touch-only" }),
              element("span.muted.no-touch", {}, "or drop or paste one"),
            ),
            element("div.samples", {}, ...SAMPLES.map(sample)),
            file,
            photo,
          ),
          problem,
          stage,
          summary,
        ),
      ),
      element(
        "div.stack",
        {},
        element(
          "section.card",
          { "aria-label": "Settings" },
          field("Model", model),
          field("Confidence", confidence.input, "", confidence.row),
          iouField,
          element("details.classes", {}, classesTitle, search, labels),
        ),
        element("section.card.found-list", { "aria-label": "Detections" }, element("h2", {}, "Detections"), findings),
      ),
    ),
    details,
  );
  const resized = new ResizeObserver(() => stage.querySelector("svg") && placeLabels(stage.querySelector("svg")));
  resized.observe(stage);
  // On the whole window, so that the browser does not open a file that is dropped beside the card.
  const listeners = { paste: pasted, dragover: dragged, dragleave: dragged, drop: dropped };
  for (const [name, listener] of Object.entries(listeners)) addEventListener(name, listener);
  readModels().then(() => picture ?? use(`/console/samples/${SAMPLES[0][0]}`, SAMPLES[0][0]));
  return () => {
    running?.abort();
    clearTimeout(timer);
    resized.disconnect();
    for (const [name, listener] of Object.entries(listeners)) removeEventListener(name, listener);
    if (picture) URL.revokeObjectURL(picture.url);
  };

  function slider(value, min) {
    const output = element("output", {}, value.toFixed(2));
    const input = element("input", { type: "range", min, max: 1, step: 0.01, value, input: onInput });
    const row = element("div.slider", {}, input, output);
    return { row, input };

    function onInput() {
      output.textContent = Number(input.value).toFixed(2);
      soon();
    }
  }

  function sample([name, title]) {
    const thumbnail = element("img", {
      src: url(`/console/samples/${name}`),
      alt: "",
      width: 64,
      height: 36,
      loading: "lazy",
    });
    return element(
      "button.sample",
      { type: "button", title, click: () => use(`/console/samples/${name}`, name) },
      thumbnail,
      element("span", {}, title),
    );
  }

  async function readModels() {
    try {
      models = (await call("/models")).models;
    } catch (error) {
      notifyError(error);
    }
    setOptions(
      model,
      models.map(({ name, task }) => [name, task ? `${name} (${task})` : name]),
    );
    onModel();
  }

  function onModel() {
    const chosenModel = models.find(({ name }) => name === model.value) ?? models[0];
    const names = [...new Set(chosenModel.labels ?? [])];
    labels.replaceChildren(
      element("legend.offscreen", {}, "Classes"),
      ...names.map((name) => element("label", {}, element("input", { type: "checkbox", value: name }), name)),
    );
    search.hidden = names.length < 12;
    iou.input.disabled = chosenModel.suppression !== undefined && chosenModel.suppression !== "by_request";
    iouField.querySelector("small").textContent = iou.input.disabled
      ? "This model removes duplicates itself, so IoU has no effect."
      : "";
    soon();
  }

  function onSearch() {
    const wanted = search.value.toLowerCase();
    for (const one of labels.querySelectorAll("label")) one.hidden = !one.textContent.toLowerCase().includes(wanted);
  }

  function selected() {
    return [...labels.querySelectorAll("input:checked")].map(({ value }) => value);
  }

  function soon() {
    const count = selected().length;
    classesTitle.textContent = `Classes: ${count || "all"}`;
    clearTimeout(timer);
    if (picture) timer = setTimeout(detect, PAUSE_MS);
  }

  function chosen(event) {
    const [blob] = event.target.files;
    event.target.value = "";
    if (blob) take(blob, blob.name);
  }

  function dragged(event) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    const isOver = event.type === "dragover" || (event.type === "dragleave" && event.relatedTarget !== null);
    page.querySelector(".drop").classList.toggle("targeted", isOver);
  }

  function dropped(event) {
    dragged(event);
    const [blob] = event.dataTransfer.files;
    if (blob) take(blob, blob.name);
  }

  function pasted(event) {
    const [blob] = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
    if (blob) take(blob, blob.name || "pasted.png");
  }

  async function use(address, name) {
    const mine = ++newest;
    try {
      const blob = await (await send(address)).blob();
      if (mine === newest) take(blob, name, true);
    } catch (error) {
      notifyError(error);
    }
  }

  function take(blob, name, isSample = false) {
    newest += 1;
    if (picture) URL.revokeObjectURL(picture.url);
    picture = { blob, name, isSample, url: URL.createObjectURL(blob), isBroken: false };
    latest = null;
    const [shown, image] = [picture, element("img", { src: picture.url, alt: `The image ${name}` })];
    image.addEventListener("error", onBroken, { once: true });
    stage.replaceChildren(image);
    clearTimeout(timer);
    detect();

    function onBroken() {
      shown.isBroken = image.hidden = true;
      if (picture === shown && latest) showDrawing();
    }
  }

  /** Show the server's drawing, because the browser cannot show this format, such as HEIC. It has no boxes. */
  async function showDrawing() {
    const [shown, image] = [picture, stage.querySelector("img")];
    shown.isBroken = false;
    try {
      const options = { method: "POST", body: shown.blob, headers: { Accept: "image/jpeg" } };
      const drawing = await (await send("/detect?confidence=1", options)).blob();
      if (picture !== shown) return;
      URL.revokeObjectURL(shown.url);
      image.src = shown.url = URL.createObjectURL(drawing);
      image.hidden = false;
    } catch {
      // the list still has what was found
    }
  }

  function query() {
    const values = new URLSearchParams({ confidence: confidence.input.value, iou: iou.input.value });
    if (model.value) values.append("model", model.value);
    for (const label of selected()) values.append("classes", label);
    return values;
  }

  async function detect() {
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    const shown = picture;
    const startedAt_ms = performance.now();
    stage.setAttribute("aria-busy", "true");
    try {
      const result = await call(`/detect?${query()}`, {
        method: "POST",
        body: shown.blob,
        headers: { "Content-Type": "application/octet-stream" },
        signal,
      });
      if (signal.aborted) return;
      latest = { result, roundTrip_ms: performance.now() - startedAt_ms };
      problem.hidden = true;
      draw();
      if (shown.isBroken) showDrawing();
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      if (error.code === "undecodable") {
        const reason = element("details", {}, element("summary", {}, "The server's answer"), error.message);
        problem.replaceChildren("This file is not an image that the server can read.", reason);
      } else problem.textContent = error.message;
      problem.hidden = false;
      stage.querySelector("svg")?.remove();
      findings.replaceChildren();
      details.replaceChildren();
      summary.textContent = "";
    } finally {
      if (!signal.aborted) stage.removeAttribute("aria-busy");
    }
  }

  function draw() {
    const { result, roundTrip_ms } = latest;
    const found = result.detections;
    const size = ({ width, height }) => `${width} × ${height} px`;
    const about = `Image ${size(result.image)}, model ${result.model}, model input ${size(result.input)}`;
    summary.textContent = `${describe(result)} ${about}.`;
    const layer = overlay(result.image, found, describe(result));
    stage.querySelector("svg")?.remove();
    stage.append(layer);
    placeLabels(layer);
    findings.replaceChildren(
      ...(result.classes ?? []).map(classRow),
      ...found.map((one, index) => row(one, layer.querySelectorAll("g.found")[index])),
    );
    if (!findings.children.length)
      findings.append(element("li.muted", {}, "Nothing was found. A lower confidence finds more."));
    const settings = {
      file: picture.name,
      isSample: picture.isSample,
      confidence: confidence.input.value,
      iou: iou.input.value,
      hasIou: !iou.input.disabled,
      classes: selected(),
      model: model.value || models[0].name,
      defaultModel: models[0].name,
      labels: models.find(({ name }) => name === model.value)?.labels ?? [],
      withKey: hasKeys(),
    };
    const pairs = [...snippets(settings), ["JSON", JSON.stringify(result, null, 2)]];
    details.replaceChildren(
      timingBar(result.timing_ms, roundTrip_ms),
      tabs("The same call", pairs, openTab, (name) => (openTab = name)),
    );
  }

  function row(one, group) {
    const mark = (on) => () => group.classList.toggle("marked", on);
    return element(
      "li",
      {},
      finding(one, { mouseenter: mark(true), mouseleave: mark(false), focus: mark(true), blur: mark(false) }),
    );
  }
}

function finding(one, events) {
  const dot = element("span.dot");
  dot.style.background = colourOf(one.class_id);
  return element(
    "button.finding",
    { type: "button", ...events },
    dot,
    element("span.grow", {}, one.label),
    element("b", {}, one.confidence.toFixed(2)),
  );
}

function classRow(one) {
  const bar = element("meter", { min: 0, max: 1, value: one.confidence, "aria-label": one.label });
  return element(
    "li.class-row",
    {},
    element("span.grow", {}, one.label),
    bar,
    element("b", {}, one.confidence.toFixed(2)),
  );
}

function describe(result) {
  if (result.classes) return `Most probable class: ${result.classes[0]?.label ?? "none"}.`;
  const counts = new Map();
  for (const { label } of result.detections) counts.set(label, (counts.get(label) ?? 0) + 1);
  const parts = [...counts].map(([label, count]) => `${count} × ${label}`);
  return `${result.count} ${result.count === 1 ? "object" : "objects"}${parts.length ? `: ${parts.join(", ")}` : ""}.`;
}
