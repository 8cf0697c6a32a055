// What the forms of streams and jobs share: the name, the settings of the model, and errors that are shown at fields.

import { element, field, setError, setOptions } from "./elements.js";
import { call } from "./http.js";

const NAME_RULE = "Use letters, digits, - and _, and begin with a letter or a digit";

/** Return the controls of a name and of the model's settings, by the names that the API gives them. */
export function sharedControls() {
  const model = element("select");
  readModels(model);
  return {
    id: element("input", { autocomplete: "off", spellcheck: "false", maxlength: 64 }),
    "detect.model": model,
    "detect.confidence": element("input", { autocomplete: "off", placeholder: "0.5" }),
    "detect.classes": element("input", { autocomplete: "off" }),
  };
}

/** Return the labelled fields of these controls. */
export function sharedFields(controls) {
  return [
    field("Name", controls.id, "Letters, digits, - and _. Without one, the server makes one."),
    field("Model", controls["detect.model"]),
    field("Confidence", controls["detect.confidence"], "0.4, or one for each class: person:0.6,*:0.4"),
    field("Classes", controls["detect.classes"], "Separated by commas. Empty for all."),
  ];
}

async function readModels(select) {
  // The key may have no permission to list them.
  const found = await call("/models").catch(() => ({ models: [{ name: "default" }] }));
  setOptions(
    select,
    found.models.map(({ name }) => [name, name]),
  );
}

/** Return the specification that these controls describe: `detect`, and `id` if there is one. */
export function sharedSpec(controls) {
  const text = (name) => controls[name].value.trim();
  const detect = {};
  if (text("detect.model")) detect.model = text("detect.model");
  if (text("detect.confidence")) detect.confidence = Number(text("detect.confidence")) || text("detect.confidence");
  if (text("detect.classes")) detect.classes = list(text("detect.classes"));
  return text("id") ? { detect, id: text("id") } : { detect };
}

/** Return the parts of a text that are separated by commas. */
export function list(text) {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean);
}

/** Return a labelled checkbox or radio button. */
export function check(text, control) {
  return element("label.check", {}, control, element("span", {}, text));
}

export function clearErrors(controls) {
  for (const control of Object.values(controls)) setError(control, "");
}

/** Show each problem at the visible field that it names, and give one of them the focus. Return all other problems. */
export function showErrors(controls, problems) {
  const rest = [];
  let first = null;
  for (const [name, text] of Object.entries(problems)) {
    const known = Object.keys(controls).find((one) => name === one || name.startsWith(`${one}.`));
    if (known && controls[known].offsetParent && controls[known].hasAttribute("aria-describedby")) {
      // The API gives the regular expression of a name.
      setError(controls[known], known === "id" && text.includes("match pattern") ? NAME_RULE : text);
      first ??= controls[known];
    } else {
      rest.push(name ? `${name}: ${text}` : text);
    }
  }
  first?.focus();
  return rest.join("; ");
}
