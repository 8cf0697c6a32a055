// The form that starts a job: images in a folder of the server, uploaded files, or URLs.

import { element, field } from "./elements.js";
import { check, clearErrors, sharedControls, sharedFields, sharedSpec, showErrors } from "./form_fields.js";
import { call, upload } from "./http.js";
import { notifyError } from "./notices.js";

const KINDS = {
  files: "A folder or a glob on the server",
  upload: "Files from this computer",
  urls: "A list of URLs",
  video: "A video on the server",
  archive: "An archive on the server",
};
const PATHS = { files: "/data/night/**/*.jpg", video: "/data/night.mp4", archive: "/data/night.zip" }; // examples

export function show(page) {
  const controls = {
    "source.path": element("input", { autocomplete: "off", spellcheck: "false" }),
    "source.urls": element("textarea", { spellcheck: "false", placeholder: "https://example.com/dock.jpg" }),
    "source.every_s": element("input", { type: "number", min: 0, step: "any", inputmode: "decimal" }),
    ...sharedControls(),
  };
  const files = element("input", { type: "file", multiple: "", accept: "image/*" });
  const folder = element("input", { type: "file", webkitdirectory: "" });
  const formats = ["jsonl", "csv", "coco", "yolo"].map((name) =>
    element("input", { type: "checkbox", value: name, checked: name === "jsonl" }),
  );
  const kinds = Object.entries(KINDS).map(([value, text], index) => [
    element("input", { type: "radio", name: "kind", value, checked: index === 0, change: refresh }),
    text,
  ]);
  const fields = {
    path: field(
      "Path",
      controls["source.path"],
      "The whole path, below one of the server's media folders (SERVE_APP_MEDIA_DIRS).",
    ),
    every_s: field("One frame in so many seconds", controls["source.every_s"], "Empty for every frame."),
    urls: field(
      "URLs, one a line",
      controls["source.urls"],
      "The server fetches them; its setting outbound.detect_urls must be on.",
    ),
    upload: element("div.pair", {}, field("Images", files), field("Or a folder of images", folder)),
  };
  const problem = element("p.problem", { role: "alert", hidden: true });
  const progress = element("progress", { hidden: true, "aria-label": "Upload" });
  const submit = element("button.primary", { type: "submit" }, "Start the job");
  page.append(
    element("h1", {}, "Start a job"),
    element(
      "form.card.form",
      { submit: start, novalidate: "" },
      element(
        "fieldset",
        {},
        element("legend.label", {}, "Source"),
        ...kinds.map(([control, text]) => check(text, control)),
      ),
      ...Object.values(fields),
      element("div.pair", {}, ...sharedFields(controls)),
      element(
        "fieldset",
        {},
        element("legend.label", {}, "Results"),
        element("div.row", {}, ...formats.map((control) => check(control.value, control))),
      ),
      problem,
      progress,
      element("div.row", {}, submit, element("a.button", { href: "#/jobs" }, "Cancel")),
    ),
  );
  refresh();
  let isShown = true;
  return () => {
    isShown = false;
  };

  function kind() {
    return kinds.find(([control]) => control.checked)[0].value;
  }

  function refresh() {
    fields.path.hidden = !(kind() in PATHS);
    controls["source.path"].placeholder = PATHS[kind()] ?? "";
    fields.every_s.hidden = kind() !== "video";
    fields.urls.hidden = kind() !== "urls";
    fields.upload.hidden = kind() !== "upload";
  }

  function spec() {
    const text = (name) => controls[name].value.trim();
    const source = { type: kind() };
    if (!fields.path.hidden) source.path = text("source.path");
    if (!fields.every_s.hidden && text("source.every_s")) source.every_s = Number(text("source.every_s"));
    if (!fields.urls.hidden) source.urls = text("source.urls").split(/\s+/).filter(Boolean);
    const wanted = formats.filter(({ checked }) => checked).map(({ value }) => value);
    return { source, outputs: wanted.length ? [{ formats: wanted }] : [], ...sharedSpec(controls) };
  }

  async function start(event) {
    event.preventDefault();
    submit.disabled = true;
    problem.hidden = true;
    clearErrors(controls);
    try {
      const job = spec();
      const chosen = [...files.files, ...folder.files];
      let form = null;
      if (job.source.type === "upload") {
        if (!chosen.length) return fail("Choose at least one image.");
        form = new FormData();
        form.append("job", JSON.stringify(job));
        for (const file of chosen) form.append("file", file);
      }
      const request = form ? upload("/jobs", form, showProgress) : call("/jobs", { method: "POST", json: job });
      const { job_id } = await request;
      if (isShown) location.hash = `#/jobs/${encodeURIComponent(job_id)}`;
    } catch (error) {
      if (!isShown) return notifyError(error);
      const plain = (name) => name.replace(/^source\.(files|urls|video|archive|upload)\./, "source.");
      const problems = Object.entries(error.byField()).map(([name, text]) => [plain(name), text]);
      fail(showErrors(controls, Object.fromEntries(problems)));
    } finally {
      submit.disabled = false;
      progress.hidden = true;
    }
  }

  function showProgress(share) {
    progress.hidden = false;
    if (share < 1) progress.value = share;
    else progress.removeAttribute("value"); // all is sent, and the server stores it
  }

  function fail(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }
}
