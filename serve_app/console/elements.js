// Builds elements. Data becomes text nodes and attributes of our choice, so no data can add markup or scripts.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element. `tag` is like "p.hint". A function in `attributes` listens to the event of that name. */
export function element(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  return filled(document.createElement(name), classes, attributes, children);
}

/** Return an SVG element, as `element` does. */
export function svg(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  return filled(document.createElementNS(SVG, name), classes, attributes, children);
}

function filled(made, classes, attributes, children) {
  if (classes.length) made.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (["value", "checked", "disabled", "selected", "hidden", "open"].includes(name)) made[name] = value;
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Return a button that does nothing but call `action`. While a promise of it runs, further clicks do nothing. */
export function button(text, action, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  let isRunning = false;
  made.addEventListener("click", async (event) => {
    if (isRunning) return;
    isRunning = true;
    made.setAttribute("aria-busy", "true");
    try {
      await action(event);
    } finally {
      isRunning = false;
      made.removeAttribute("aria-busy");
    }
  });
  return made;
}

/** Return a card with this title. */
export function section(title, ...children) {
  return element("section.card", { "aria-label": title }, element("h2", {}, title), ...children);
}

/** Replace the text of an element only if it differs, so that nothing is drawn or read aloud again. */
export function setText(target, text) {
  if (target.textContent !== String(text)) target.textContent = text;
}

let fields = 0;

/** Return a labelled form control. `hint` describes it. `shown` is what holds the control, if it is not alone. */
export function field(label, control, hint = "", shown = control) {
  control.id ||= `field-${++fields}`;
  const note = element("small", { id: `${control.id}-note` }, hint);
  const problem = element("small.error", { id: `${control.id}-error` });
  control.setAttribute("aria-describedby", `${note.id} ${problem.id}`);
  return element("div.field", {}, element("label", { for: control.id }, label), shown, note, problem);
}

/** Show the error below a control that `field` has made, or none if `message` is empty. The hint stays. */
export function setError(control, message) {
  const problem = document.getElementById(`${control.id}-error`);
  if (!problem) return;
  problem.textContent = message;
  if (message) control.setAttribute("aria-invalid", "true");
  else control.removeAttribute("aria-invalid");
}

/** Return a select with these options: pairs of value and text. */
export function choice(options, chosen, attributes = {}) {
  const made = element("select", attributes);
  setOptions(made, options, chosen);
  return made;
}

/** Replace the options of a select, and choose one. By default, this is the first. */
export function setOptions(select, options, chosen = options[0][0]) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  select.value = chosen;
}

/** Copy text, and return whether it worked. The clipboard API exists only on https and on loopback. */
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // the browser refuses the clipboard: the older way may still work
    }
  }
  const area = element("textarea.offscreen", { value: text });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
