// The fields of a zone or a line, and their form in the API.

import { button, element, field } from "./elements.js";
import { list } from "./form_fields.js";

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
  const zones = regions.filter(({ kind }) => kind === "zone");
  const lines = regions.filter(({ kind }) => kind === "line");
  return {
    zones: zones.map((zone) => ({ ...common(zone), polygon: zone.points, ...threshold(zone) })),
    lines: lines.map((line) => ({ ...common(line), start: line.points[0], end: line.points[1] })),
  };
}

function common({ original, name, labels }) {
  const before = (original.labels ?? []).join(", ");
  const wanted =
    labels === before
      ? (original.labels ?? [])
      : list(labels);
  return { ...original, name: name.trim(), labels: wanted };
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

/** Return the fields of a region. */
export function regionCard(region, isChosen, { onChange, onChoose, onRemove, onReverse }) {
  const input = (name, placeholder) =>
    element("input", {
      value: region[name],
      placeholder,
      autocomplete: "off",
      maxlength: name === "name" ? 64 : 1024,
      focus: onChoose,
      input: (event) => {
        region[name] = event.target.value;
        onChange();
      },
    });
  const isZone = region.kind === "zone";
  return element(
    `section.card.region-card${isChosen ? ".chosen" : ""}`,
    { "aria-label": `${region.kind} ${region.name}` },
    field(isZone ? "Zone" : "Line", input("name", "")),
    field("Labels", input("labels", "all"), "Count only these, separated by commas."),
    isZone &&
      field("Confidence", input("confidence", "as the stream"), "Count only above this: 0.6, or person:0.6,*:0.4"),
    element(
      "div.row",
      {},
      !isZone && button("Reverse direction", onReverse),
      button("Remove", onRemove, { class: "danger quiet" }),
    ),
  );
}
