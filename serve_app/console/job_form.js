// The form that starts a job: images in a folder of the server, uploaded files, or URLs.

import { element, field, setError, setOptions } from "./elements.js";
import { call } from "./http.js";

const KINDS = {
  files: "A folder or a glob on the server",
  upload: "Files from this computer",
  urls: "A list of URLs",
  video: "A video on the server",
  archive: "An archive on the server",
};

export function showJobForm(page) {
  const controls = {
    "source.path": element("input", { autocomplete: "off", spellcheck: "false" }),
    "source.urls": element("textarea", { spellcheck: "false", placeholder: "https://example.com/dock.jpg" }),
    "source.every_s": element("input", { type: "number", min: 0, step: "any", inputmode: "decimal" }),
    id: element("input", { autocomplete: "off", spellcheck: "false", maxlength: 64 }),
    "detect.model": element("select"),
    "detect.confidence": element("input", { autocomplete: "off", placeholder: "0.5" }),
    "detect.classes": element("input", { autocomplete: "off" }),
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
    path: field("Path", controls["source.path"], "Below the server's media folders, such as night/**/*.jpg"),
    every_s: field("One frame in so many seconds", controls["source.every_s"], "Empty for every frame."),
    urls: field(
      "URLs, one a line",
      controls["source.urls"],
      "The server fetches them; its setting outbound.detect_urls must be on.",
    ),
    upload: element("div.pair", {}, field("Images", files), field("Or a folder of images", folder)),
  };
  const problem = element("p.problem", { role: "alert", hidden: true });
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
        ...kinds.map(([control, text]) => element("label.check", {}, control, element("span", {}, text))),
      ),
      ...Object.values(fields),
      element(
        "div.pair",
        {},
        field("Name", controls.id, "Letters, digits, - and _. Without one, the server makes one."),
        field("Model", controls["detect.model"]),
        field("Confidence", controls["detect.confidence"], "0.4, or one for each class: person:0.6,*:0.4"),
        field("Classes", controls["detect.classes"], "Separated by commas. Empty for all."),
      ),
      element(
        "fieldset",
        {},
        element("legend.label", {}, "Results"),
        element(
          "div.row",
          {},
          ...formats.map((control) => element("label.check", {}, control, element("span", {}, control.value))),
        ),
      ),
      problem,
      element("div.row", {}, submit, element("a.button", { href: "#/jobs" }, "Cancel")),
    ),
  );
  refresh();
  readModels();

  function kind() {
    return kinds.find(([control]) => control.checked)[0].value;
  }

  function refresh() {
    fields.path.hidden = !["files", "video", "archive"].includes(kind());
    fields.every_s.hidden = kind() !== "video";
    fields.urls.hidden = kind() !== "urls";
    fields.upload.hidden = kind() !== "upload";
  }

  async function readModels() {
    const found = await call("/models").catch(() => ({ models: [{ name: "default" }] }));
    setOptions(
      controls["detect.model"],
      found.models.map(({ name }) => [name, name]),
    );
  }

  function spec() {
    const text = (name) => controls[name].value.trim();
    const source = { type: kind() };
    if (!fields.path.hidden) source.path = text("source.path");
    if (!fields.every_s.hidden && text("source.every_s")) source.every_s = Number(text("source.every_s"));
    if (!fields.urls.hidden) source.urls = text("source.urls").split(/\s+/).filter(Boolean);
    const detect = {};
    if (text("detect.model")) detect.model = text("detect.model");
    if (text("detect.confidence")) detect.confidence = Number(text("detect.confidence")) || text("detect.confidence");
    const classes = text("detect.classes")
      .split(",")
      .map((part) => part.trim())
      .filter(Boolean);
    if (classes.length) detect.classes = classes;
    const wanted = formats.filter(({ checked }) => checked).map(({ value }) => value);
    const made = { source, detect, outputs: wanted.length ? [{ formats: wanted }] : [] };
    if (text("id")) made.id = text("id");
    return made;
  }

  async function start(event) {
    event.preventDefault();
    submit.disabled = true;
    problem.hidden = true;
    for (const control of Object.values(controls)) setError(control, "");
    try {
      const job = spec();
      const chosen = [...files.files, ...folder.files];
      let request = { method: "POST", json: job };
      if (job.source.type === "upload") {
        if (!chosen.length) return fail("Choose at least one image.");
        const form = new FormData();
        form.append("job", JSON.stringify(job));
        for (const file of chosen) form.append("file", file);
        request = { method: "POST", body: form };
      }
      const { job_id } = await call("/jobs", request);
      location.hash = `#/jobs/${encodeURIComponent(job_id)}`;
    } catch (error) {
      showErrors(error);
    } finally {
      submit.disabled = false;
    }
  }

  function fail(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  /** Show each problem at the field that it names, and all others above the buttons. */
  function showErrors(error) {
    const rest = [];
    for (const [name, text] of Object.entries(error.byField())) {
      const plain = name.replace(/^source\.(files|urls|video|archive|upload)\./, "source.");
      const known = Object.keys(controls).find((one) => plain === one || plain.startsWith(`${one}.`));
      if (known && controls[known].offsetParent) setError(controls[known], text);
      else rest.push(name ? `${name}: ${text}` : text);
    }
    fail(rest.join("; "));
  }
}
