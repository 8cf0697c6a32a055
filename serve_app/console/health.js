// What serves and how well: models, replicas, batches, times, refusals, streams, jobs and drift.

import { element, section } from "./elements.js";
import { call, poll } from "./http.js";
import { curve, histogram } from "./plots.js";
import { badge, figures, number, sum } from "./words.js";

const SPAN_S = 180; // of a curve
const MAX_JOBS = 100; // GET /overview counts only the newest jobs

export function show(page) {
  const message = element("p.muted", { role: "status" });
  const content = element("div.stack");
  const rates = new Map(); // pairs of a time in seconds and images per second by model, the newest last
  const dashboard = element("p.muted");
  page.append(element("div.row.spread", {}, element("h1", {}, "Health"), dashboard), message, content);
  return poll(read, 2);

  async function read() {
    try {
      const overview = await call("/overview");
      for (const { status, images_per_s } of overview.models) {
        const points = [...(rates.get(status.name) ?? []), [overview.at_s, images_per_s]];
        rates.set(
          status.name,
          points.filter(([at_s]) => at_s >= overview.at_s - SPAN_S),
        );
      }
      message.textContent = "";
      if (!dashboard.children.length) dashboard.append(...dashboardLink(overview.dashboard_url));
      const y = scrollY;
      content.replaceChildren(...sections(overview, rates));
      scrollTo({ top: y, behavior: "instant" });
    } catch (error) {
      message.textContent = error.message;
    }
  }
}

/** Return a link to Ray's dashboard, or only its address if this browser is on another machine than its loopback. */
function dashboardLink(address) {
  if (!address) return [];
  const isLocal = ({ hostname }) => ["127.0.0.1", "localhost", "[::1]"].includes(hostname);
  if (isLocal(new URL(address)) && !isLocal(location))
    return [element("span", {}, `Ray's dashboard is at ${address} on the server.`)];
  const options = { href: address, target: "_blank", rel: "noopener noreferrer" };
  return [element("a", options, "Ray's dashboard"), " (its token: ", element("code", {}, "ray get-auth-token"), ")"];
}

function sections(overview, rates) {
  return [
    ...overview.models.map((model) => modelCard(model, rates.get(model.status.name))),
    element(
      "div.grid",
      {},
      requestsCard(overview),
      statesCard(overview),
      refusalsCard(overview.refusals),
      driftCard(overview.drift),
    ),
  ];
}

function modelCard({ status, replicas, images_per_s, mean_batch_size, queue_delay_ms, images, stages }, rates) {
  const about = [status.model, status.task, status.engine, status.precision].filter(Boolean).join(" · ");
  const shapes = (status.input_shapes ?? []).map(({ width, height }) => `${width} × ${height}`).join(", ");
  return element(
    "section.card",
    { "aria-label": `Model ${status.name}` },
    element("div.row.spread", {}, element("h2", {}, status.name), badge(status.state)),
    element("p", {}, about),
    shapes && element("p.muted", {}, `Model inputs in pixels: ${shapes}.`),
    status.refused_change && element("p.problem", {}, `The last change was refused: ${status.refused_change}`),
    figures([
      ["images/s", images_per_s.toFixed(1)],
      ["replicas", number(replicas)],
      ["mean batch", mean_batch_size === null ? "–" : mean_batch_size.toFixed(1)],
      ["queue delay", queue_delay_ms === null ? "–" : `${queue_delay_ms.toFixed(1)} ms`],
      ["images", number(images)],
    ]),
    element("p.muted", {}, "Images of requests, streams and jobs."),
    element(
      "div.grid",
      {},
      curve("Images per second", rates, SPAN_S, "/s"),
      ...Object.entries(stages).map(([name, one]) => histogram(`Time: ${name}`, one)),
    ),
  );
}

function requestsCard({ requests_per_s, stages }) {
  return section(
    "Requests",
    element("p.muted", {}, "Images of requests, without those of streams and jobs."),
    figures([["images/s", requests_per_s.toFixed(1)]]),
    ...Object.entries(stages).map(([name, one]) => histogram(`Time: ${name}`, one)),
  );
}

function statesCard({ replicas, streams, jobs }) {
  return section(
    "What runs",
    counts("Streams", streams, badge),
    counts(sum(jobs ?? {}) < MAX_JOBS ? "Jobs" : `The newest ${MAX_JOBS} jobs`, jobs, badge),
    counts("Replicas", replicas, (name) => name),
  );
}

/** Return a list of names with their counts. A part that the key may not see is null. */
function counts(title, found, shown) {
  const entries = Object.entries(found ?? {});
  const text = found === null ? "not available" : "none";
  return element(
    "div",
    {},
    element("h3", {}, title),
    entries.length
      ? element(
          "ul.row",
          {},
          ...entries.map(([name, count]) => element("li.row", {}, shown(name), element("b", {}, number(count)))),
        )
      : element("p.muted", {}, text),
  );
}

function refusalsCard(refusals) {
  const rows = refusals.map(({ code, limit, count }) =>
    element("tr", {}, element("td", {}, code), element("td", {}, limit || "–"), element("td", {}, number(count))),
  );
  const heading = ["Code", "Limit", "Count"].map((text) => element("th", { scope: "col" }, text));
  const table = element(
    "div.scroll",
    {},
    element("table", {}, element("thead", {}, element("tr", {}, ...heading)), element("tbody", {}, ...rows)),
  );
  return section("Refusals", rows.length ? table : element("p.muted", {}, "Nothing was refused."));
}

function driftCard(drift) {
  if (!drift) return section("Drift", element("p.muted", {}, "Not available."));
  const rows = drift.drifting.map(({ source, model, features }) =>
    element("li", {}, element("b", {}, source), ` (${model}): ${features.join(", ")}`),
  );
  return section("Drift", counts("Sources", drift.states, badge), element("ul.stack", {}, ...rows));
}
