// The recorded clips of a stream, with a snapshot of each. A click plays a clip on the page.

import { button, element, section, setText } from "./elements.js";
import { call, path, url } from "./http.js";
import { clock, fileSize, reasons } from "./words.js";

const PAGE = 12; // clips

/** Return a card with a stream's recordings. `update(recorder)` shows the recorder's state. `refresh()` lists anew. */
export function recordingsOf(id) {
  const state = element("p.muted");
  const problem = element("p.problem", { hidden: true });
  const player = element("div.stack", { hidden: true });
  const list = element("ul.clips");
  const nothing = element("p.muted", {}, "No clip has been recorded yet.");
  const more = button("Show older clips", () => load(next), { hidden: true });
  const card = section("Recordings", state, problem, player, nothing, list, element("div.row", {}, more));
  card.hidden = true;
  let next = null;
  let hasRecorder = false;
  refresh();
  return { card, refresh, update };

  function update(recorder) {
    hasRecorder = Boolean(recorder);
    state.hidden = !recorder;
    if (recorder) {
      const now = recorder.is_recording ? "A clip is being recorded." : "No clip is being recorded.";
      setText(state, `${now} Dropped frames: ${reasons(recorder.dropped)}.`);
      setText(problem, recorder.detail);
    }
    problem.hidden = !recorder?.detail;
    card.hidden = !recorder && !list.children.length;
  }

  function refresh() {
    return load(null);
  }

  async function load(before) {
    const query = new URLSearchParams({ limit: PAGE, ...(before && { before }) });
    let page;
    try {
      page = await call(`${path("streams", id, "recordings")}?${query}`);
    } catch (error) {
      problem.hidden = false;
      setText(problem, error.message);
      return;
    }
    const items = page.recordings.map(item);
    if (before) list.append(...items);
    else list.replaceChildren(...items);
    next = page.next;
    more.hidden = !next;
    nothing.hidden = Boolean(list.children.length);
    card.hidden = !hasRecorder && !list.children.length;
  }

  function item({ triggered_at_s, clip, snapshot, size_bytes }) {
    const time = clock(triggered_at_s);
    const picture = snapshot
      ? element("img", { src: address(snapshot), alt: "", loading: "lazy" })
      : element("span.waiting", {}, "no snapshot");
    const saved = { href: clip && address(clip), download: clip, "aria-label": `Download the clip of ${time}` };
    const link = clip ? element("a", saved, fileSize(size_bytes)) : element("span.muted", {}, "not finished");
    const text = element("div.row.spread", {}, element("time", {}, time), link);
    const view = clip
      ? button("", () => play(clip, snapshot, time), { class: "clip", "aria-label": `Play the clip of ${time}` })
      : element("span.clip");
    view.append(picture);
    return element("li", {}, view, text);
  }

  function play(clip, snapshot, time) {
    const video = element("video", {
      src: address(clip),
      poster: snapshot && address(snapshot),
      controls: "",
      autoplay: "",
      playsinline: "",
      "aria-label": `The clip of ${time}`,
    });
    video.muted = true; // clips have no sound, and browsers only start muted videos by themselves
    const failed = element("p.problem", { hidden: true }, "The browser cannot play this clip. Download it instead.");
    video.addEventListener("error", () => (failed.hidden = false));
    const close = button("Close the clip", () => {
      video.removeAttribute("src");
      video.load(); // ends the download
      player.replaceChildren();
      player.hidden = true;
    });
    player.replaceChildren(video, failed, element("div.row.spread", {}, element("span", {}, time), close));
    player.hidden = false;
    video.focus();
  }

  function address(file) {
    return url(path("streams", id, "recordings", file));
  }
}
