// Batch jobs: the list with progress and rate, and the way to a new job and to the results of each.

import { isLeaving } from "./deletions.js";
import { element, setText } from "./elements.js";
import { call, path, poll } from "./http.js";
import { showJob } from "./job.js";
import { countsOf, progressBar } from "./job_progress.js";
import { clock, duration, setBadge } from "./words.js";

export function show(page, id) {
  if (id) return showJob(page, id);
  return showList(page);
}

function showList(page) {
  const rows = new Map(); // by job id
  const body = element("tbody");
  const message = element("p.muted", { role: "status" });
  const heading = ["Job", "State", "Progress", "Rate", "Started"].map((text) => element("th", { scope: "col" }, text));
  const table = element(
    "div.card.scroll",
    { hidden: true },
    element("table.jobs", {}, element("thead", {}, element("tr", {}, ...heading)), body),
  );
  page.append(
    element(
      "div.row.spread",
      {},
      element("h1", {}, "Jobs"),
      element("a.button.primary", { href: "#/new-job" }, "Start a job"),
    ),
    message,
    table,
  );
  return poll(read, 2);

  async function read() {
    try {
      const { jobs, next } = await call("/jobs?limit=100");
      setText(
        message,
        jobs.length
          ? next
            ? "The newest 100 jobs."
            : ""
          : "There are no jobs yet. A job detects objects in many images at once.",
      );
      table.hidden = !jobs.length;
      const ids = new Set(jobs.map(({ job_id }) => job_id));
      for (const [id, row] of rows) {
        if (ids.has(id)) continue;
        row.shown.remove();
        rows.delete(id);
      }
      jobs.forEach((job, index) => {
        if (!rows.has(job.job_id)) rows.set(job.job_id, makeRow(job.job_id));
        const row = rows.get(job.job_id);
        row.update(job);
        if (body.children[index] !== row.shown) body.insertBefore(row.shown, body.children[index] ?? null);
      });
    } catch (error) {
      setText(message, error.message);
    }
  }
}

function makeRow(id) {
  const [state, rate, started, progress, source, cause] = ["span", "td", "td", "td", "small", "small"].map((tag) =>
    element(tag),
  );
  const shown = element(
    "tr",
    {},
    element("td", {}, element("a", { href: `#${path("jobs", id)}` }, id), element("div", {}, source)),
    element("td", {}, state, element("div", {}, cause)),
    progress,
    rate,
    started,
  );
  return { shown, update };

  function update(job) {
    setBadge(state, isLeaving("jobs", id) ? "deleting" : job.state);
    setText(cause, job.detail);
    setText(source, job.source);
    setText(
      rate,
      job.state === "running"
        ? `${job.images_per_s.toFixed(1)} images/s${job.eta_s === null ? "" : `, ${duration(job.eta_s)} left`}`
        : "",
    );
    setText(started, clock(job.created_at_s));
    progress.replaceChildren(progressBar(job), element("small", {}, countsOf(job)));
  }
}
