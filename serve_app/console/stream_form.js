// The form that starts a stream. A picture of the source can be looked at before.

import { button, choice, element, field, setError, setOptions } from "./elements.js";
import { call, send } from "./http.js";
import { notify } from "./notices.js";

export function showForm(page) {
  const controls = {
    id: element("input", { autocomplete: "off", spellcheck: "false", maxlength: 64 }),
    "source.uri": element("input", { autocomplete: "off", spellcheck: "false", required: "" }),
    "source.loop": element("input", { type: "checkbox" }),
    "source.tls_verify": element("input", { type: "checkbox", checked: true }),
    max_fps: element("input", { type: "number", min: 0.01, max: 1000, step: "any", inputmode: "decimal" }),
    policy: choice(
      [
        ["", "by the kind of source"],
        ["drop_oldest", "skip to the newest frame"],
        ["wait", "process every frame"],
      ],
      "",
    ),
    "detect.model": element("select"),
    "detect.confidence": element("input", { placeholder: "0.5", autocomplete: "off" }),
    "detect.classes": element("input", { autocomplete: "off" }),
    track: element("input", { type: "checkbox" }),
    degrade: element("input", { type: "checkbox" }),
  };
  const problem = element("p.problem", { role: "alert", hidden: true });
  const picture = element("img.snapshot", { alt: "A frame of the source", hidden: true });
  const submit = element("button.primary", { type: "submit" }, "Start the stream");
  const look = button("Look at the source first", snapshot);
  let address = "";
  const form = element(
    "form.card.form",
    { submit: start, novalidate: "" },
    field(
      "Source",
      controls["source.uri"],
      "rtsp://user:password@camera/1, an http or https URL, /dev/video0, or a file or folder on the server",
    ),
    element("div.row", {}, look),
    picture,
    element(
      "div.pair",
      {},
      field("Name", controls.id, "Letters, digits, - and _. Without one, the server makes one."),
      field("Model", controls["detect.model"]),
      field("Confidence", controls["detect.confidence"], "0.4, or one for each class: person:0.6,*:0.4"),
      field("Classes", controls["detect.classes"], "Separated by commas. Empty for all."),
      field("Frames per second, at most", controls.max_fps, "Empty for as many as the source has."),
      field("If the model is slower", controls.policy),
    ),
    element(
      "div.pair",
      {},
      check("Play a file again when it ends", controls["source.loop"]),
      check("Check the certificate of https and rtsps", controls["source.tls_verify"]),
      check("Track objects", controls.track),
      check("Start it even if capacity is lacking", controls.degrade),
    ),
    problem,
    element("div.row", {}, submit, element("a.button", { href: "#/streams" }, "Cancel")),
  );
  page.append(element("h1", {}, "Add a stream"), form);
  readModels();
  controls["source.uri"].focus();
  return () => URL.revokeObjectURL(address);

  async function readModels() {
    let names = ["default"];
    try {
      names = (await call("/models")).models.map(({ name }) => name);
    } catch {
      // the key may have no permission to list them
    }
    setOptions(
      controls["detect.model"],
      names.map((name) => [name, name]),
    );
  }

  function source() {
    return {
      uri: controls["source.uri"].value.trim(),
      loop: controls["source.loop"].checked,
      tls_verify: controls["source.tls_verify"].checked,
    };
  }

  function spec() {
    const text = (name) => controls[name].value.trim();
    const made = { source: source(), track: controls.track.checked, degrade: controls.degrade.checked, detect: {} };
    if (text("id")) made.id = text("id");
    if (text("max_fps")) made.max_fps = Number(text("max_fps"));
    if (text("policy")) made.policy = text("policy");
    if (text("detect.model")) made.detect.model = text("detect.model");
    if (text("detect.confidence"))
      made.detect.confidence = Number(text("detect.confidence")) || text("detect.confidence");
    const classes = text("detect.classes")
      .split(",")
      .map((part) => part.trim())
      .filter(Boolean);
    if (classes.length) made.detect.classes = classes;
    return made;
  }

  async function start(event) {
    event.preventDefault();
    submit.disabled = true;
    clear();
    try {
      const status = await call("/streams", { method: "POST", json: spec() });
      notify(`${status.stream_id} has started.`);
      location.hash = `#/streams/${encodeURIComponent(status.stream_id)}`;
    } catch (error) {
      showErrors(error);
    } finally {
      submit.disabled = false;
    }
  }

  async function snapshot() {
    clear();
    try {
      const response = await send("/streams/snapshot", {
        method: "POST",
        json: { source: { ...source(), loop: undefined } },
      });
      URL.revokeObjectURL(address);
      address = URL.createObjectURL(await response.blob());
      picture.src = address;
      picture.hidden = false;
    } catch (error) {
      showErrors(error);
    }
  }

  function clear() {
    problem.hidden = true;
    for (const control of Object.values(controls)) setError(control, "");
  }

  /** Show each problem at the field that it names, and all others above the buttons. */
  function showErrors(error) {
    const problems = error.code === "invalid_source" ? { "source.uri": error.message } : error.byField();
    if (error.code === "conflict") problems.id = error.message;
    const rest = [];
    let first = null;
    for (const [name, text] of Object.entries(problems)) {
      const known = Object.keys(controls).find((one) => name === one || name.startsWith(`${one}.`));
      if (known) setError(controls[known], text);
      else rest.push(name ? `${name}: ${text}` : text);
      first ??= controls[known];
    }
    problem.textContent = rest.join("; ");
    problem.hidden = !rest.length;
    first?.focus();
  }
}

function check(text, control) {
  return element("label.check", {}, control, element("span", {}, text));
}
