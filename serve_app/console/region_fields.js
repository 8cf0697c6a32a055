// The fields of a zone or a line, and their form in the API.

import { button, element, field, setError } from "./elements.js";
import { list } from "./form_fields.js";
import { longest } from "./stream.js";

/** Return the regions of the API's JSON as one list, in which zones and lines have the same fields. */
export function fromApi({ zones, lines }) {
  return [
    ...zones.map((zone) => editable("zone", zone, zone.polygon)),
    ...lines.map((line) => editable("line", line, [line.start, line.end])),
  ];
}

function editable(kind, original, points) {
  const { name, labels = [], confidence = null } = original;
  return { kind, name, points, labels: labels.join(", "), confidence: thresholdText(confidence), original };
}

/** Return the regions as JSON of the API. Fields that this page does not know stay as they were. */
export function toApi(regions) {
  const all = (kind, place) =>
    regions
      .filter((region) => region.kind === kind)
      .map((region) => ({ ...common(region), ...place(region.points), ...threshold(region) }));
  return { zones: all("zone", (polygon) => ({ polygon })), lines: all("line", ([start, end]) => ({ start, end })) };
}

function common({ original, name, labels }) {
  const before = original.labels ?? [];
  return { ...original, name: name.trim(), labels: labels === before.join(", ") ? before : list(labels) };
}

function threshold({ confidence, original }) {
  if (confidence.trim() === thresholdText(original.confidence ?? null)) return {};
  const text = confidence.trim();
  if (!text) return { confidence: null };
  return { confidence: Number.isNaN(Number(text)) ? text : Number(text) };
}

function thresholdText(value) {
  if (value === null) return "";
  return typeof value === "object"
    ? Object.entries(value)
        .map((pair) => pair.join(":"))
        .join(",")
    : String(value);
}

/** Return what a stream has counted in a zone or across a line, or "". */
export function countsText({ kind, name }, { zones, lines }) {
  const found = kind === "zone" ? zones[name] : lines[name];
  if (!found) return "";
  if (kind === "line") return `${found.crossed_in} in, ${found.crossed_out} out`;
  return `${found.inside} inside${longest(found) && `, up to ${longest(found)}`}`;
}

/** Return the fields of a region. `known` are the labels of the models; it is empty if they are not known. */
export function regionCard(region, isChosen, known, { onChange, onChoose, onRemove, onReverse }) {
  const input = (name, placeholder, attributes = {}) =>
    element("input", {
      value: region[name],
      placeholder,
      autocomplete: "off",
      maxlength: name === "name" ? 64 : 1024,
      focus: onChoose,
      input: (event) => {
        region[name] = event.target.value;
        setError(event.target, "");
        onChange();
      },
      ...attributes,
    });
  const controls = {
    name: input("name", ""),
    labels: input("labels", "all", { list: "labels", change: warn }),
    confidence: input("confidence", "as the stream"),
  };
  const isZone = region.kind === "zone";
  const card = element(
    `section.card.region-card${isChosen ? ".chosen" : ""}`,
    { "aria-label": `${region.kind} ${region.name}` },
    field(isZone ? "Zone" : "Line", controls.name),
    field("Labels", controls.labels, "Count only these, separated by commas."),
    field("Confidence", controls.confidence, "Count only above this: 0.6, or person:0.6,*:0.4"),
    element(
      "div.row",
      {},
      !isZone && button("Reverse direction", onReverse),
      button("Remove", onRemove, { class: "danger quiet" }),
    ),
  );
  queueMicrotask(warn); // when the card is on the page
  return Object.assign(card, { controls });

  function warn() {
    const unknown = known.length ? list(region.labels).filter((label) => !known.includes(label)) : [];
    setError(controls.labels, unknown.length ? `No model has the label ${unknown.join(", ")}` : "");
  }
}
