// One job: its progress, its results as pictures with filters, its failed items with their reasons, and its files.

import { deleteLater } from "./deletions.js";
import { button, choice, element, setOptions, setText } from "./elements.js";
import { call, path, poll, url } from "./http.js";
import { progressBar } from "./job_progress.js";
import { notifyError } from "./notices.js";
import { badge, clock, duration, figures, number, reasons, setBadge } from "./words.js";

const AT_REST = ["completed", "cancelled", "failed", "expired"];
const FORMATS = ["jsonl", "csv", "coco", "yolo"];
const PAGE = 24; // items
const SEARCHED = 200; // items that are read at once to find those with a label

export function showJob(page, id) {
  const state = element("span");
  const cause = element("p.cause");
  const progress = element("section.card", { "aria-label": "Progress" });
  const actions = element("div.row");
  const downloads = element("div.row");
  const filter = choice(
    [
      ["succeeded", "Results"],
      ["failed", "Failed items"],
    ],
    "succeeded",
    { "aria-label": "Items", change: restart },
  );
  const label = choice([["", "every label"]], "", { "aria-label": "Label", change: restart });
  const pictures = element("div.pictures");
  const more = button("Show more", () => load(), { hidden: true });
  const nothing = element("p.muted", { role: "status" });
  let status = null;
  let next = null;
  let shown = 0; // items on the page
  let turn = 0; // counts the listings, so that one that was left ends

  page.append(
    element("p", {}, element("a", { href: "#/jobs" }, "All jobs")),
    element("div.row.spread", {}, element("div.row", {}, element("h1", {}, id), state), actions),
    cause,
    progress,
    element(
      "div.row.spread",
      {},
      element("div.row", {}, element("div", {}, filter), element("div", {}, label)),
      downloads,
    ),
    pictures,
    nothing,
    element("div.row", {}, more),
  );
  restart();
  return poll(read, 1.5);

  async function read() {
    try {
      const before = status && status.succeeded + status.failed;
      update(await call(path("jobs", id)));
      // With a label, a person restarts it, because it may have to look at all items.
      if (!label.value && shown < PAGE && status.succeeded + status.failed !== before) restart();
    } catch (error) {
      setText(cause, error.message);
    }
  }

  function update(job) {
    status = job;
    setBadge(state, job.state);
    setText(cause, job.detail);
    progress.replaceChildren(
      progressBar(job),
      figures([
        [job.listed ? "images" : "images so far", number(job.items)],
        ["succeeded", number(job.succeeded)],
        ["failed", number(job.failed)],
        ["rate", job.state === "running" ? `${job.images_per_s.toFixed(1)} /s` : "–"],
        ["left", job.eta_s === null ? "–" : duration(job.eta_s)],
        ["created", clock(job.created_at_s)],
      ]),
      element("p.muted", {}, `${job.source}. Found: ${reasons(job.detections)}. Failed: ${reasons(job.errors)}.`),
    );
    const labels = Object.keys(job.detections);
    if (labels.length + 1 !== label.options.length) {
      setOptions(label, [["", "every label"], ...labels.map((one) => [one, one])], label.value);
    }
    const isOver = AT_REST.includes(job.state);
    const wanted = [
      !isOver && job.state !== "paused" && ["Pause", "pause"],
      job.state === "paused" && ["Resume", "resume"],
      !isOver && ["Cancel", "cancel"],
      job.state === "completed" && job.failed > 0 && ["Retry what failed", "retry"],
      ["cancelled", "failed"].includes(job.state) && ["Continue", "retry"], // also with the items that are not done
      isOver && ["Delete", "delete"],
    ].filter(Boolean);
    const now = JSON.stringify(wanted);
    if (actions.dataset.now !== now) {
      actions.dataset.now = now;
      actions.replaceChildren(
        ...wanted.map(([text, verb]) =>
          button(text, () => act(verb), verb === "delete" ? { class: "danger quiet" } : {}),
        ),
      );
      const formats = isOver ? FORMATS : FORMATS.slice(0, 2);
      downloads.replaceChildren(
        element("span.muted", {}, "Download"),
        ...formats.map((one) =>
          element("a.button", { href: url(`${path("jobs", id, "results")}?format=${one}`), download: "" }, one),
        ),
      );
    }
  }

  async function act(verb) {
    try {
      if (verb === "delete") {
        deleteLater("jobs", id);
        location.hash = "#/jobs";
      } else {
        const json = verb === "retry" ? { items: "failed" } : undefined;
        update(await call(path("jobs", id, verb), { method: "POST", json }));
        if (verb === "retry") restart();
      }
    } catch (error) {
      notifyError(error);
    }
  }

  function restart() {
    next = null;
    shown = 0;
    label.hidden = filter.value === "failed"; // failed items have no labels
    pictures.replaceChildren();
    return load();
  }

  /** Show the next items that have the chosen label. Read on until there is a page of them, or no further item. */
  async function load() {
    const mine = ++turn;
    const wanted = shown + PAGE;
    const isFailed = filter.value === "failed";
    const hasLabel = (item) => isFailed || !label.value || labelsOf(item).includes(label.value);
    try {
      do {
        const after = next === null ? "" : `&after=${next}`;
        const limit = label.value ? SEARCHED : PAGE;
        const found = await call(`${path("jobs", id, "items")}?state=${filter.value}&limit=${limit}${after}`);
        if (mine !== turn) return;
        const matches = found.items.filter(hasLabel);
        const items = matches.slice(0, wanted - shown);
        pictures.append(...items.map(isFailed ? failedItem : resultItem));
        shown += items.length;
        next = items.length < matches.length ? items.at(-1).item : found.next;
        if (next !== null && shown < wanted) setText(nothing, "Looking for further items with this label…");
      } while (next !== null && shown < wanted);
      more.hidden = next === null;
      setText(nothing, shown ? "" : "Nothing to show here.");
    } catch (error) {
      if (mine === turn) notifyError(error);
    }
  }

  function resultItem(item) {
    const labels = labelsOf(item);
    const counts = {};
    for (const one of item.detections.length ? labels : labels.slice(0, 1)) counts[one] = (counts[one] ?? 0) + 1;
    const address = url(path("jobs", id, "items", String(item.item), "image"));
    const time = item.time_s === null || item.time_s === undefined ? "" : ` at ${duration(item.time_s)}`;
    return element(
      "figure.card",
      {},
      element(
        "a",
        { href: address, target: "_blank", rel: "noopener" },
        element("img", { src: address, alt: `${item.name}${time}`, loading: "lazy" }),
      ),
      element("figcaption", {}, element("div", {}, item.name, time), element("small", {}, reasons(counts))),
    );
  }

  function failedItem(item) {
    return element(
      "figure.card",
      {},
      element(
        "figcaption",
        {},
        element("div", {}, item.name),
        badge("failed"),
        element("div", {}, element("b", {}, item.code), `: ${item.detail}`),
        element("small", {}, `item ${number(item.item)}`),
      ),
    );
  }
}

function labelsOf(item) {
  return [...item.detections, ...(item.classes ?? [])].map(({ label }) => label);
}
