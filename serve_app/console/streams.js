// The wall of all streams: what each one shows, its state with the cause, its rate, its age and its drops.

import { deleteLater, isLeaving } from "./deletions.js";
import { button, element, setText } from "./elements.js";
import { call, path, poll } from "./http.js";
import { notifyError } from "./notices.js";
import { Previews } from "./previews.js";
import { showRegions } from "./regions.js";
import { showStream } from "./stream.js";
import { clock, duration, isProblem, number, reasons, setBadge, sum } from "./words.js";

export function show(page, id, part) {
  if (id && part === "regions") return showRegions(page, id);
  if (id) return showStream(page, id);
  return showWall(page);
}

function showWall(page) {
  const tiles = new Map(); // by stream id
  const counts = element("p.muted", { role: "status" });
  const problem = element("p.problem", { role: "alert" });
  const search = element("input", {
    type: "search",
    placeholder: "Find a stream",
    "aria-label": "Find a stream",
    input: () => refresh(),
  });
  const problems = button("Only problems", onProblems, { "aria-pressed": "false" });
  const wall = element("div.wall");
  const nothing = element("div.card.empty", { hidden: true });
  const previews = new Previews({
    onFrame: (id, header) => tiles.get(id)?.onFrame(header),
    onError: (id, text) => tiles.get(id)?.onError(text),
  });
  let streams = [];

  const add = element("a.button.primary", { href: "#/new-stream" }, "Add a stream");
  page.append(
    element("div.row.spread", {}, element("h1", {}, "Streams"), add),
    element("div.row.spread", {}, counts, element("div.row", {}, element("div", {}, search), problems)),
    problem,
    nothing,
    wall,
  );
  const stop = poll(read, 2);
  return () => {
    stop();
    previews.close();
  };

  async function read() {
    try {
      streams = (await call("/streams")).streams;
      setText(problem, "");
      refresh();
    } catch (error) {
      setText(problem, error.message);
      setText(counts, "");
      for (const tile of tiles.values()) tile.lose();
    }
  }

  function onProblems() {
    problems.setAttribute("aria-pressed", String(problems.getAttribute("aria-pressed") === "false"));
    refresh();
  }

  function refresh() {
    const wanted = search.value.toLowerCase();
    const onlyProblems = problems.getAttribute("aria-pressed") === "true";
    const matches = (one) => JSON.stringify([one.stream_id, one.source, one.tags]).toLowerCase().includes(wanted);
    const shown = streams.filter((one) => matches(one) && (!onlyProblems || isProblem(one)));
    const troubled = streams.filter(isProblem).length;
    const all = streams.length === 1 ? "1 stream" : `${number(streams.length)} streams`;
    setText(counts, `${all}, ${troubled || "none"} with a problem`);
    const ids = new Set(shown.map(({ stream_id }) => stream_id));
    for (const [id, tile] of tiles) {
      if (ids.has(id)) continue;
      previews.remove(id);
      tile.card.remove();
      tiles.delete(id);
    }
    for (const status of shown) {
      const id = status.stream_id;
      if (!tiles.has(id)) {
        const tile = makeTile(id, read);
        tiles.set(id, tile);
        previews.add(id, tile.canvas);
      }
      tiles.get(id).update(status);
    }
    shown.forEach(({ stream_id }, index) => {
      const { card } = tiles.get(stream_id);
      if (wall.children[index] !== card) wall.insertBefore(card, wall.children[index] ?? null);
    });
    nothing.hidden = shown.length > 0;
    if (!shown.length) {
      const none = "There are no streams yet. A stream is a camera, a video or a folder of images.";
      nothing.replaceChildren(element("p", {}, streams.length ? "No stream matches." : none));
    }
  }
}

function makeTile(id, reread) {
  const canvas = element("canvas", { role: "img", "aria-label": `The newest frame of ${id}` });
  const waiting = element("span.waiting", {}, "");
  const age = element("span.age", { hidden: true });
  const state = element("span.status");
  const scene = element("span.status", { hidden: true });
  const cause = element("p.cause");
  const source = element("small", {}, "");
  const [fps, ageFact, drops] = [element("span"), element("span"), element("span")];
  const facts = element("div.facts", {}, fps, ageFact, drops);
  const pause = button("Pause", () => change());
  const remove = button("Delete", () => deleteLater("streams", id, reread), { class: "danger quiet" });
  const address = `#${path("streams", id)}`;
  const title = element("h2", {}, element("a", { href: address }, id));
  const card = element(
    "article.card.tile",
    { "aria-label": `Stream ${id}` },
    element("a.screen", { href: address, "aria-label": `Open ${id}`, tabindex: "-1" }, canvas, waiting, age),
    element(
      "div.tile-text",
      {},
      element("div.row.spread", {}, title, element("div.row", {}, scene, state)),
      source,
      cause,
      facts,
      element("div.row", {}, pause, remove),
    ),
  );
  let status = null;
  let hasFrame = false;
  let trouble = ""; // why there is no picture
  return { card, canvas, update, lose, onFrame, onError };

  function update(newest) {
    status = newest;
    const leaves = isLeaving("streams", id);
    setBadge(state, leaves ? "deleting" : status.state);
    card.classList.toggle("leaving", leaves);
    remove.disabled = leaves;
    const sceneState = status.scene_health?.state ?? "ok";
    scene.hidden = ["ok", "unknown"].includes(sceneState);
    setBadge(scene, sceneState);
    const why = status.detail || (scene.hidden ? "" : status.scene_health.detail);
    setText(cause, why);
    setText(source, status.source);
    setText(fps, `${status.processed_fps.toFixed(1)} fps`);
    setText(ageFact, status.latest ? `age ${duration(status.latest.age_s)}` : "no frame yet");
    const { max_fps: _, ...dropped } = status.dropped; // the spec wants to drop those
    setText(drops, `${number(sum(dropped))} dropped`);
    drops.title = reasons(status.dropped);
    const isRunning = status.state === "running";
    setText(waiting, isRunning ? trouble || "waiting for a frame" : status.state);
    waiting.hidden = isRunning && hasFrame && !trouble;
    card.classList.toggle("stale", !waiting.hidden);
    setText(pause, isStopped() ? "Resume" : "Pause");
    pause.hidden = status.state === "completed";
    if (!isRunning) age.hidden = true;
  }

  /** Say that the state is not known, because the server does not answer. */
  function lose() {
    update({ ...status, state: "unknown", detail: "" });
  }

  function onError(text) {
    trouble = text;
    if (status) update(status);
  }

  function onFrame({ captured_at_s }) {
    if (status?.state !== "running") return;
    if (trouble) onError("");
    hasFrame = waiting.hidden = true;
    card.classList.remove("stale");
    age.hidden = false;
    setText(age, clock(captured_at_s));
  }

  function isStopped() {
    return ["paused", "failed"].includes(status.state);
  }

  async function change() {
    try {
      update(await call(path("streams", id, isStopped() ? "resume" : "pause"), { method: "POST" }));
    } catch (error) {
      notifyError(error);
    }
  }
}
