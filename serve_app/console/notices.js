// Short messages at the lower edge of the page, which screen readers read aloud.

import { button, element } from "./elements.js";

const SHOWN_S = 6;
const MAX_ERRORS = 3;
export const UNDO_S = 10;

/** Show a message for some seconds, and an error until it is closed. */
export function notify(text, kind = "info") {
  const shown = [...document.querySelectorAll(".notice")];
  shown.find((notice) => notice.dataset.text === text)?.remove();
  const errors = shown.filter((notice) => notice.matches(".bad"));
  if (errors.length >= MAX_ERRORS) errors[0].remove();
  const isBad = kind === "bad";
  const made = element(
    `div.notice.${kind}`,
    { role: isBad && "alert", "data-text": text },
    element("span", {}, text),
    isBad && button("Close", () => made.remove()),
  );
  place(made);
  if (!isBad) setTimeout(() => made.remove(), SHOWN_S * 1000);
}

export function notifyError(error) {
  if (error.name !== "AbortError") notify(error.message, "bad");
}

/**
 * Call `action` after 10 s, or `undo` if the user undoes it. The time stops while the pointer or the focus is on the
 * message. Return `now()`, which does not wait, and `drop()`, after which nothing is called.
 */
export function later(text, action, undo) {
  const left = element("span.muted", { "aria-hidden": "true" });
  const cancel = button("Undo", () => end(undo));
  const made = element("div.notice.info", {}, element("span", {}, text, left), cancel);
  const before = document.activeElement;
  let left_ms = UNDO_S * 1000;
  let last_ms = performance.now();
  let ending = null; // a promise, once it ends
  const timer = setInterval(tick, 250);
  place(made);
  if (before?.matches("button:focus-visible")) cancel.focus(); // the keyboard finds it here
  tick();
  return { now, drop: () => end(() => null) };

  function tick() {
    const now_ms = performance.now();
    if (!made.matches(":hover, :focus-within")) left_ms -= now_ms - last_ms;
    last_ms = now_ms;
    left.textContent = ` ${Math.max(Math.ceil(left_ms / 1000), 0)} s`;
    if (left_ms <= 0) now();
  }

  function now() {
    return end(() => action().catch((error) => (undo(), notifyError(error))));
  }

  function end(then) {
    return (ending ??= finish(then));
  }

  /** Put the focus back if it was on the message. */
  async function finish(then) {
    const hadFocus = made.contains(document.activeElement);
    clearInterval(timer);
    made.remove();
    await then();
    if (!hadFocus || document.activeElement !== document.body) return;
    (before.isConnected && !before.disabled ? before : document.getElementById("page")).focus();
  }
}

function place(notice) {
  document.getElementById("notices").append(notice);
}
