// The progress of a job: a bar of the items that succeeded and failed, and their counts.

import { element } from "./elements.js";
import { number } from "./words.js";

export function progressBar(job) {
  const bar = element("div.bar-of", { role: "img", "aria-label": countsOf(job) });
  for (const [name, count] of [
    ["done", job.succeeded],
    ["failed", job.failed],
  ]) {
    const part = element(`span.${name}`);
    part.style.width = `${job.items ? (100 * count) / job.items : 0}%`;
    bar.append(part);
  }
  return bar;
}

export function countsOf(job) {
  const failed = job.failed ? `, ${number(job.failed)} failed` : "";
  return `${number(job.succeeded)} of ${number(job.items)}${job.listed ? "" : " so far"}${failed}`;
}
