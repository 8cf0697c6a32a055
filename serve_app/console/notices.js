// Short messages at the lower edge of the page, which screen readers read aloud.

import { button, element } from "./elements.js";

const SHOWN_S = 6;
export const UNDO_S = 10;

/** Show a message for some seconds. */
export function notify(text, kind = "info") {
  const same = [...document.querySelectorAll(".notice")].find((notice) => notice.textContent === text);
  same?.remove();
  const made = element(`div.notice.${kind}`, {}, element("span", {}, text));
  place(made);
  setTimeout(() => made.remove(), SHOWN_S * 1000);
}

export function notifyError(error) {
  if (error.name !== "AbortError") notify(error.message, "bad");
}

/** Call `action` after 10 s, unless the user undoes it. Until then, `undo` can put everything back. */
export function later(text, action, undo) {
  const left = element("span.muted", {}, ` ${UNDO_S} s`);
  const made = element("div.notice.info", {}, element("span", {}, text, left), button("Undo", cancel));
  const expiresAt = performance.now() + UNDO_S * 1000;
  const tick = setInterval(() => {
    const remaining_s = Math.ceil((expiresAt - performance.now()) / 1000);
    left.textContent = ` ${Math.max(remaining_s, 0)} s`;
    if (remaining_s <= 0) end(() => action().catch((error) => (undo(), notifyError(error))));
  }, 250);
  left.setAttribute("aria-hidden", "true");
  place(made);

  function cancel() {
    end(undo);
  }

  function end(then) {
    clearInterval(tick);
    made.remove();
    then();
  }
}

function place(notice) {
  document.getElementById("notices").append(notice);
}
