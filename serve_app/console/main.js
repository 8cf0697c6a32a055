// Starts the page: asks who the caller is, and shows the page that the address names, such as #/streams/gate.

import { dropDeletions } from "./deletions.js";
import { button, element } from "./elements.js";
import { ApiError, SERVER } from "./http.js";
import { allows, callerBadge, readSession, signInForm } from "./session.js";

// Each page is a module, which is loaded when it is first shown. `show(page, ...parts)` fills the element and returns
// a function that ends its timers and connections; its property `isUnsaved()` says whether leaving loses changes.
const PAGES = [
  { name: "try", permission: "detect", load: () => import("./try.js") },
  { name: "streams", permission: "streams", load: () => import("./streams.js") },
  { name: "jobs", permission: "jobs", load: () => import("./jobs.js") },
  { name: "health", permission: null, load: () => import("./health.js") },
  { name: "new-stream", under: "streams", permission: "streams", load: () => import("./stream_form.js") },
  { name: "new-job", under: "jobs", permission: "jobs", load: () => import("./job_form.js") },
];

const page = document.getElementById("page");
let close = () => {};
let shown = 0;
// The tabs of a browser share one cookie, so each tells the others when it signs in or out.
const tabs = new BroadcastChannel(`sightline ${SERVER}`);
let session = null;

async function start() {
  try {
    session = await readSession();
  } catch (error) {
    close();
    page.replaceChildren(element("p.empty", {}, error instanceof ApiError ? error.message : "the page cannot start"));
    setTimeout(start, 3000);
    return;
  }
  document.getElementById("caller").replaceChildren(...callerBadge(onSignedOut));
  for (const link of document.querySelectorAll("#pages a")) {
    const { permission } = PAGES.find(({ name }) => link.hash === `#/${name}`);
    link.hidden = !session || (permission !== null && !allows(permission));
  }
  if (session) await show();
  else signIn();
}

function onSignedIn() {
  tabs.postMessage("signed in");
  start();
}

function onSignedOut() {
  tabs.postMessage("signed out");
  signIn("You are signed out.");
}

/** Use the new cookie and its CSRF token. What is shown stays, if it is for the same key. */
async function onOtherTab() {
  const before = session;
  const now = await readSession().catch(() => null);
  if (before && now && before.name === now.name) session = now;
  else dropDeletions(), start();
}

function signIn(reason) {
  session = null;
  dropDeletions();
  shown += 1;
  close();
  close = () => {};
  document.getElementById("caller").replaceChildren();
  for (const link of document.querySelectorAll("#pages a")) link.hidden = true;
  page.replaceChildren(signInForm(onSignedIn, reason));
}

async function show() {
  const [, name = "", ...parts] = location.hash.split("/").map(decoded);
  const allowed = PAGES.filter(({ permission }) => permission === null || allows(permission));
  const chosen = allowed.find((one) => one.name === name) ?? allowed[0];
  const turn = ++shown;
  close();
  close = () => {};
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.hash === `#/${chosen.under ?? chosen.name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const module = await chosen.load().catch(() => null);
  if (turn !== shown) return;
  page.replaceChildren();
  if (!module) {
    const again = button("Try again", () => location.reload()); // a browser may not load a failed module twice
    const reason = "This page could not be loaded. Is the server still running?";
    page.append(element("p.problem", { role: "alert" }, reason), element("div.row", {}, again));
    return;
  }
  close = module.show(page, ...parts) ?? (() => {});
  document.title = `${page.querySelector("h1")?.textContent ?? "Sightline"} · Sightline`;
  scrollTo(0, 0);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

addEventListener("hashchange", ({ oldURL }) => {
  if (!session) return;
  if (close.isUnsaved?.() && !confirm("Leave this page without saving your changes?")) {
    history.replaceState(null, "", oldURL);
    return;
  }
  if (!document.activeElement.closest("#notices")) page.focus({ preventScroll: true });
  show();
});
addEventListener("beforeunload", (event) => close.isUnsaved?.() && event.preventDefault());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the page that is shown
  page.focus();
});
tabs.addEventListener("message", onOtherTab);
document.addEventListener("signed-out", () => session && signIn("Your session has ended. Sign in again."));
start();
