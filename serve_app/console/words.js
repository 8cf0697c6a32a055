// How the page says states, times and numbers. A state is always a colour and a word.

import { element, setText } from "./elements.js";

const KINDS = {
  good: ["running", "completed", "ready", "ok", "steady"],
  warn: ["starting", "reconnecting", "stalled", "changing", "unknown", "frozen?", "cancelling"],
  bad: ["failed", "blocked", "unavailable", "covered", "blurred", "dark", "frozen", "moved", "drifting"],
};

/** Return a badge with the state's word in its colour. */
export function badge(state) {
  return setBadge(element("span"), state);
}

export function setBadge(target, state) {
  const kind = Object.keys(KINDS).find((one) => KINDS[one].includes(state)) ?? "idle";
  target.className = `status ${kind}`;
  setText(target, state);
  return target;
}

/** Return whether this state of a stream needs a person or will soon. */
export function isProblem(stream) {
  const scene = stream.scene_health?.state ?? "ok";
  return !["starting", "running", "completed", "paused"].includes(stream.state) || !["ok", "unknown"].includes(scene);
}

/** Return a duration such as "3 min", or "0.05 s". */
export function duration(seconds) {
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** Return the time of day, or the date too if it is another day. */
export function clock(at_s) {
  const time = new Date(at_s * 1000);
  const isToday = time.toDateString() === new Date().toDateString();
  const format = { hourCycle: "h23" };
  return isToday ? time.toLocaleTimeString([], format) : time.toLocaleString([], format);
}

export function number(value) {
  return value.toLocaleString("en");
}

/** Return a size such as "1.2 MB", or "80 kB". */
export function fileSize(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function sum(counts) {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}

/** Return "3 max_fps, 2 superseded", or "none". */
export function reasons(counts) {
  const parts = Object.entries(counts).filter(([, count]) => count);
  return parts.map(([reason, count]) => `${number(count)} ${reason}`).join(", ") || "none";
}

/** Return a list of figures: pairs of a name and a text or an element. */
export function figures(pairs) {
  return element(
    "dl.figures",
    {},
    ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}
