// The form that starts a stream. A picture of the source can be looked at before.

import { button, choice, element, field } from "./elements.js";
import { check, clearErrors, sharedControls, sharedFields, sharedSpec, showErrors } from "./form_fields.js";
import { call, send } from "./http.js";
import { notify, notifyError } from "./notices.js";

export function show(page) {
  const box = (checked = false) => element("input", { type: "checkbox", checked });
  const uri = element("input", { autocomplete: "off", spellcheck: "false", required: "", input: hidePicture });
  const controls = {
    "source.uri": uri,
    "source.loop": box(),
    "source.tls_verify": box(true),
    max_fps: element("input", { type: "number", min: 0.01, max: 1000, step: "any", inputmode: "decimal" }),
    policy: choice(
      [
        ["", "by the kind of source"],
        ["drop_oldest", "skip to the newest frame"],
        ["wait", "process every frame"],
      ],
      "",
    ),
    ...sharedControls(),
    track: box(),
    recording: box(),
    degrade: box(),
  };
  const problem = element("p.problem", { role: "alert" });
  const picture = element("img.snapshot", { alt: "A frame of the source", hidden: true });
  const submit = element("button.primary", { type: "submit" }, "Start the stream");
  const look = button("Look at the source first", snapshot);
  let address = "";
  const form = element(
    "form.card.form",
    { submit: start, novalidate: "" },
    field(
      "Source",
      uri,
      "rtsp://user:password@camera/1, an http or https URL, /dev/video0, or a file or folder on the server",
    ),
    element("div.row", {}, look),
    picture,
    element(
      "div.pair",
      {},
      ...sharedFields(controls),
      field("Frames per second, at most", controls.max_fps, "Empty for all. For a file: in seconds of the video."),
      field("If the model is slower", controls.policy),
    ),
    element(
      "div.pair",
      {},
      check("Play a file again when it ends", controls["source.loop"]),
      check("Check the certificate of https and rtsps", controls["source.tls_verify"]),
      check("Track objects", controls.track),
      check("Record clips of what is found", controls.recording),
      check("Start it even if capacity is lacking", controls.degrade),
    ),
    problem,
    element("div.row", {}, submit, element("a.button", { href: "#/streams" }, "Cancel")),
  );
  page.append(element("h1", {}, "Add a stream"), form);
  uri.focus();
  let isShown = true;
  return () => {
    isShown = false;
    URL.revokeObjectURL(address);
  };

  function source() {
    return {
      uri: uri.value.trim(),
      loop: controls["source.loop"].checked,
      tls_verify: controls["source.tls_verify"].checked,
    };
  }

  function spec() {
    const text = (name) => controls[name].value.trim();
    const made = { source: source(), track: controls.track.checked, degrade: controls.degrade.checked };
    if (text("max_fps")) made.max_fps = Number(text("max_fps"));
    if (text("policy")) made.policy = text("policy");
    if (controls.recording.checked) made.recording = {};
    return { ...made, ...sharedSpec(controls) };
  }

  async function start(event) {
    event.preventDefault();
    submit.disabled = true;
    clear();
    try {
      const status = await call("/streams", { method: "POST", json: spec() });
      notify(`${status.stream_id} has started.`);
      if (isShown) location.hash = `#/streams/${encodeURIComponent(status.stream_id)}`;
    } catch (error) {
      if (!isShown) return notifyError(error);
      fail(error);
    } finally {
      submit.disabled = false;
    }
  }

  function hidePicture() {
    picture.hidden = true;
  }

  async function snapshot() {
    clear();
    hidePicture();
    const wanted = uri.value;
    try {
      const response = await send("/streams/snapshot", {
        method: "POST",
        json: { source: { ...source(), loop: undefined } },
      });
      const blob = await response.blob();
      if (!isShown || uri.value !== wanted) return;
      URL.revokeObjectURL(address);
      address = URL.createObjectURL(blob);
      picture.src = address;
      picture.hidden = false;
    } catch (error) {
      fail(error);
    }
  }

  function clear() {
    problem.textContent = "";
    clearErrors(controls);
  }

  function fail(error) {
    const problems = error.code === "invalid_source" ? { "source.uri": error.message } : error.byField();
    if (error.code === "conflict") problems.id = error.message;
    problem.textContent = showErrors(controls, problems);
  }
}
