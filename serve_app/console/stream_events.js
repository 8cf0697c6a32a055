// The events of a stream as they come. While the page is hidden, nothing is connected.

import { element, section, setText } from "./elements.js";
import { path, socketUrl } from "./http.js";
import { clock, duration, number } from "./words.js";

const TYPES = ["state", "gap", "zone", "line", "recording", "scene_health", "label", "drift"];
const MAX_EVENTS = 100;
const RECONNECT_S = 2;

/** Return the card of a stream's events, and a function that ends it. `onEvent(event)` is called for each event. */
export function eventsOf(id, onEvent) {
  const list = element("ul.events", { "aria-label": "Events", tabindex: "0" });
  const nothing = element("p.muted", {}, "No events yet.");
  const problem = element("p.problem", { role: "status" });
  const card = section("Events", problem, nothing, list);
  let after = -1; // the id of the last event
  let socket = null;
  let timer = 0;
  document.addEventListener("visibilitychange", connect);
  connect();
  return { card, close };

  function connect() {
    clearTimeout(timer);
    if (document.hidden) return disconnect();
    if (socket) return;
    const made = new WebSocket(socketUrl(`${path("streams", id, "events")}?types=${TYPES}&after=${after}`));
    socket = made;
    made.onopen = () => setText(problem, "");
    made.onmessage = ({ data }) => socket === made && add(JSON.parse(data));
    made.onclose = ({ reason }) => {
      if (socket !== made) return;
      socket = null;
      setText(problem, `New events do not arrive: ${reason || "the connection has ended"}. The page tries again.`);
      timer = setTimeout(connect, RECONNECT_S * 1000);
    };
  }

  function disconnect() {
    const old = socket;
    socket = null;
    old?.close();
  }

  function close() {
    document.removeEventListener("visibilitychange", connect);
    clearTimeout(timer);
    disconnect();
  }

  function add(event) {
    // Before the first event, the page has missed nothing.
    if (event.type === "missed" && after === -1) return;
    after = event.event_id ?? after;
    nothing.hidden = true;
    const time = element("time", {}, clock(event.at_s ?? Date.now() / 1000));
    const type = element("b", {}, event.type.replace("_", " "));
    list.prepend(element("li", {}, time, type, element("span", {}, sentence(event))));
    while (list.children.length > MAX_EVENTS) list.lastChild.remove();
    onEvent(event);
  }
}

const dwell = ({ dwell_s }) => (dwell_s ? ` after ${duration(dwell_s)}` : "");

function sentence(event) {
  switch (event.type) {
    case "state":
    case "scene_health":
      return `${event.previous} → ${event.state}${event.detail ? `: ${event.detail}` : ""}`;
    case "zone":
      return `${event.label} ${event.track_id} ${event.change} ${event.zone}${dwell(event)}`;
    case "line":
      return `${event.label} ${event.track_id} crossed ${event.line}, ${event.direction}`;
    case "missed":
      return `${number(event.missed)} events were missed, results of frames included`;
    case "gap":
      return `${event.lost} frames were lost in ${duration(event.away_s)}`;
    case "recording":
      return `${event.change} ${event.clip}`;
    case "label":
      return `${event.previous ?? "nothing"} → ${event.label} (${event.confidence.toFixed(2)})`;
    case "drift":
      return `${event.change}: ${event.features.join(", ")}`;
    default:
      return "";
  }
}
