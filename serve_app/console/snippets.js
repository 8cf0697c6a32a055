// The same call for a terminal or a program, to copy.

import { button, copy, element } from "./elements.js";
import { SERVER } from "./http.js";
import { notify } from "./notices.js";

/** Return the text of `value` as one word of a POSIX shell. */
export function shellWord(value) {
  return /^[\w./:@=-]+$/.test(value) && !value.startsWith("-") ? value : `'${value.replaceAll("'", `'\\''`)}'`;
}

/** Return the three forms of a call of POST /detect, as pairs of a title and a text. */
export function snippets({ file, isSample, confidence, iou, hasIou, classes, model, defaultModel, labels, withKey }) {
  const query = new URLSearchParams({ confidence, iou });
  for (const label of classes) query.append("classes", label);
  const options = [`confidence=${confidence}`, `iou=${iou}`];
  if (classes.length) options.push(`classes=[${classes.map((label) => JSON.stringify(label)).join(", ")}]`);
  const words = [
    "sightline detect",
    shellWord(file.startsWith("-") ? `./${file}` : file),
    `--confidence ${confidence}`,
  ];
  if (classes.length) words.push(`--classes ${shellWord(commandClasses(classes, labels).join(","))}`);
  if (model !== defaultModel) {
    query.append("model", model);
    options.push(`model=${JSON.stringify(model)}`);
    words.push(`--model ${shellWord(model)}`);
  }
  words.push(`--url ${SERVER}`);
  const curl = [
    `curl --data-binary ${shellWord(`@${file}`)}`,
    ...(withKey ? ['-H "Authorization: Bearer $SIGHTLINE_KEY"'] : []),
    shellWord(`${SERVER}/detect?${query}`),
  ];
  const python = [
    "from serve_app.client import Client",
    "",
    `with Client(${JSON.stringify(SERVER)}) as client:${withKey ? "  # reads SIGHTLINE_KEY" : ""}`,
    `    result = client.detect(${[JSON.stringify(file), ...options].join(", ")})`,
    "    print(result.labels, result.xyxy)",
  ];
  const download = isSample ? [`curl -sO ${shellWord(`${SERVER}/console/samples/${file}`)}`] : [];
  const note = hasIou ? ["# This command has no option for IoU: the server's own is used."] : [];
  return [
    ["curl", [...download, curl.join(" \\\n  ")].join("\n")],
    ["Python", [...download.map((line) => `# ${line}`), ...python].join("\n")],
    ["Command", [...note, ...download, words.join(" ")].join("\n")],
  ];
}

/** The command separates classes by commas, so a label with a comma is named by its number. */
function commandClasses(classes, labels) {
  return classes.map((label) => (label.includes(",") ? labels.indexOf(label) : label));
}

/** Return a panel with a tab for each pair of title and text. `chosen` is the title of the open tab. */
export function tabs(title, pairs, chosen, onChoose) {
  const code = element("pre.code", { tabindex: "0", role: "tabpanel", "aria-label": title });
  const list = element("div.tabs", { role: "tablist", "aria-label": title, keydown: onKey });
  const buttons = pairs.map(([name]) =>
    element("button", { type: "button", role: "tab", click: () => choose(name) }, name),
  );
  let current = pairs[0];
  list.append(...buttons);
  choose(pairs.some(([name]) => name === chosen) ? chosen : pairs[0][0]);
  const copyButton = button("Copy", async () => notify((await copy(current[1])) ? "Copied." : "The browser refused."));
  return element("section.card", {}, element("div.row.spread", {}, list, copyButton), code);

  function choose(name) {
    current = pairs.find(([one]) => one === name);
    code.textContent = current[1];
    buttons.forEach((one) => {
      const isChosen = one.textContent === name;
      one.setAttribute("aria-selected", String(isChosen));
      one.tabIndex = isChosen ? 0 : -1;
    });
    onChoose?.(name);
  }

  function onKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    choose(next.textContent);
    next.focus();
  }
}
