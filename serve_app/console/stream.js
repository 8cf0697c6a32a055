// One stream: its picture, its state and counters, its zones and lines, its sinks, and its events as they come.

import { deleteLater, isLeaving } from "./deletions.js";
import { button, element, section, setText } from "./elements.js";
import { call, path, poll, url } from "./http.js";
import { notifyError } from "./notices.js";
import { Previews } from "./previews.js";
import { recordingsOf } from "./recordings.js";
import { eventsOf } from "./stream_events.js";
import { duration, figures, number, reasons, setBadge } from "./words.js";

export function showStream(page, id) {
  const canvas = element("canvas", { role: "img", "aria-label": `The newest frame of ${id}` });
  const waiting = element("span.waiting", {}, "");
  const state = element("span.status");
  const scene = element("span.status", { hidden: true });
  const cause = element("p.cause");
  const problem = element("p.problem", { role: "alert" });
  const source = element("p.muted");
  const counters = element("div");
  const counted = element("div.stack");
  const sinks = element("div.stack");
  const recordings = recordingsOf(id);
  const events = eventsOf(id, ({ type }) => type === "recording" && recordings.refresh());
  const pause = button("Pause", change);
  const boxes = button("Boxes", toggleBoxes, { "aria-pressed": "true" });
  const deletion = button("Delete", remove, { class: "danger quiet" });
  const address = url(path("streams", id, "frame.jpg"));
  const frame = element("a.button", { href: address, download: `${id}.jpg`, hidden: true }, "Save a frame");
  const screen = element("div.screen", {}, canvas, waiting);
  const previews = new Previews({
    onFrame: () => {
      waiting.hidden = true;
      trouble = "";
    },
    onError: (_, text) => (trouble = text),
  });
  let trouble = ""; // why there is no picture
  let status = null;

  const edit = element("a.button", { href: `#${path("streams", id, "regions")}` }, "Zones and lines");
  const tile = element("div.card.tile", {}, screen);
  const left = element("div.stack", {}, tile, section("Counters", counters), recordings.card);
  page.append(
    element("p", {}, element("a", { href: "#/streams" }, "All streams")),
    element(
      "div.row.spread",
      {},
      element("div.row", {}, element("h1", {}, id), state, scene),
      element("div.row", {}, boxes, pause, frame, edit, deletion),
    ),
    element("div.stack", {}, problem, source, cause),
    element("div.two", {}, left, element("div.stack", {}, counted, sinks, events.card)),
  );
  previews.add(id, canvas);
  const stop = poll(read, 1);
  return () => {
    stop();
    events.close();
    previews.close();
  };

  async function read() {
    try {
      update(await call(path("streams", id)));
      setText(problem, "");
    } catch (error) {
      const now = error.status === 404 ? "gone" : "unknown";
      if (status) update({ ...status, state: now, detail: "" });
      else setBadge(state, now);
      setText(problem, error.message);
    }
  }

  function update(newest) {
    status = newest;
    deletion.disabled = isLeaving("streams", id);
    setBadge(state, deletion.disabled ? "deleting" : status.state);
    const sceneState = status.scene_health?.state ?? "ok";
    scene.hidden = sceneState === "ok" || sceneState === "unknown";
    setBadge(scene, sceneState);
    const why = [status.detail, scene.hidden ? "" : status.scene_health.detail].filter(Boolean).join("; ");
    setText(cause, why);
    const tags = Object.entries(status.tags).map(([name, value]) => `${name}=${value}`);
    setText(source, [status.source, status.owner && `owner ${status.owner}`, ...tags].filter(Boolean).join(" · "));
    const isRunning = status.state === "running";
    setText(waiting, isRunning ? trouble || "waiting for a frame" : status.state);
    if (!isRunning || trouble) waiting.hidden = false;
    frame.hidden = !isRunning;
    screen.classList.toggle("stale", !isRunning);
    setText(pause, ["paused", "failed"].includes(status.state) ? "Resume" : "Pause");
    pause.hidden = status.state === "completed";
    counters.replaceChildren(
      figures([
        ["processed", `${status.processed_fps.toFixed(1)} fps`],
        ["source", `${status.camera_fps.toFixed(1)} fps`],
        ["age", status.latest ? duration(status.latest.age_s) : "–"],
        ["frames", number(status.processed)],
        ["uptime", duration(status.uptime_s)],
        ["reconnects", number(status.reconnects)],
        ["restarts", number(status.restarts)],
      ]),
      element("p.muted", {}, `Dropped: ${reasons(status.dropped)}.`),
    );
    counted.replaceChildren(...regionCounts(status));
    sinks.replaceChildren(...sinkCards(status));
    recordings.update(status.recording);
  }

  function toggleBoxes() {
    const on = boxes.getAttribute("aria-pressed") === "false";
    boxes.setAttribute("aria-pressed", String(on));
    previews.setBoxes(on);
  }

  async function change() {
    const verb = ["paused", "failed"].includes(status?.state) ? "resume" : "pause";
    try {
      update(await call(path("streams", id, verb), { method: "POST" }));
    } catch (error) {
      notifyError(error);
    }
  }

  function remove() {
    deleteLater("streams", id);
    location.hash = "#/streams";
  }
}

function regionCounts({ zones, lines }) {
  const row = (name, counts, ...notes) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, counts, ...notes));
  const rows = [
    ...Object.entries(zones).map(([name, zone]) => {
      const note = longest(zone) && element("small", {}, `longest dwell ${longest(zone)}`);
      const counts = `${zone.inside} inside, ${number(zone.entered)} entered, ${number(zone.left)} left`;
      return row(name, counts, note && element("br"), note);
    }),
    ...Object.entries(lines).map(([name, line]) =>
      row(name, `${number(line.crossed_in)} in, ${number(line.crossed_out)} out`),
    ),
  ];
  return rows.length ? [section("Counts", element("table", {}, element("tbody", {}, ...rows)))] : [];
}

/** Return the longest time for which an object that is inside the zone has been there, or "". */
export function longest(zone) {
  const times = Object.values(zone.dwell_s);
  return times.length ? duration(Math.max(...times)) : "";
}

function sinkCards({ sinks }) {
  const rows = sinks.map((sink) => {
    const counts = `${number(sink.sent)} sent, ${number(sink.waiting)} waiting, dropped: ${reasons(sink.dropped)}`;
    const problem = sink.detail && element("p.problem", {}, sink.detail);
    return element("li", {}, element("b", {}, sink.type), ` ${sink.target}`, element("div.muted", {}, counts), problem);
  });
  return rows.length ? [section("Sinks", element("ul.stack", {}, ...rows))] : [];
}
