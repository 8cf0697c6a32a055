// The caller: who is signed in, and what the key allows. The key itself is sent once and kept nowhere.

import { deleteNow } from "./deletions.js";
import { button, element, field, setError } from "./elements.js";
import { ApiError, call, setCsrfToken } from "./http.js";

const NEEDS_HTTPS =
  "From another machine, you can sign in only over https, because the browser does not keep the session's cookie " +
  "otherwise. Open this page over https, or in a browser on the server itself.";
const NO_COOKIE = "The key is right, but the browser has not kept the session's cookie.";
const ALL = ["detect", "streams", "jobs", "admin"];

let session = null;

/** Return the session, or null if the server wants a key first. */
export async function readSession() {
  try {
    use(await call("/session"));
  } catch (error) {
    if (!(error instanceof ApiError) || ![401, 404].includes(error.status)) throw error;
    if (error.status === 404) use({ name: "", permissions: ALL, csrf_token: "" });
    else session = null;
  }
  return session;
}

function use(found) {
  session = found;
  setCsrfToken(found.csrf_token || "");
}

/** Return whether the caller has this permission. `admin` has all. */
export function allows(permission) {
  return Boolean(session) && (session.permissions.includes(permission) || session.permissions.includes("admin"));
}

/** Return whether the server has API keys, so that programs must send one. */
export function hasKeys() {
  return Boolean(session?.name);
}

/** Return the form that turns a key into a session, and calls `onDone` then. */
export function signInForm(onDone, reason = "") {
  const key = element("input", { type: "password", autocomplete: "off", required: "", spellcheck: "false" });
  const submit = element("button.primary", { type: "submit" }, "Sign in");
  const warning = isSecureContext ? null : element("p.problem", { role: "alert" }, NEEDS_HTTPS);
  const form = element(
    "form.card.sign-in",
    { submit: enter },
    element("h1", {}, "Sign in"),
    element("p.muted", {}, reason || "This server has API keys. Enter yours to use this page."),
    warning,
    field("API key", key, "The page keeps no key: it becomes a cookie that scripts cannot read and that expires."),
    element("div.row", {}, submit),
  );
  document.title = "Sightline";
  setTimeout(() => key.focus());
  return form;

  async function enter(event) {
    event.preventDefault();
    submit.disabled = true;
    try {
      await call("/session", { method: "POST", json: { key: key.value.trim() } });
      if (!(await readSession())) throw new Error(NO_COOKIE);
      key.value = "";
      onDone();
    } catch (error) {
      setError(key, error.message);
      key.focus();
    } finally {
      submit.disabled = false;
    }
  }
}

/** Return what the top bar says about the caller, and the button that signs out. */
export function callerBadge(onSignedOut) {
  if (!session || !session.name) return [];
  const name = element("span.muted", { title: `Permissions: ${session.permissions.join(", ")}` }, session.name);
  return [name, button("Sign out", signOut, { class: "quiet" })];

  async function signOut() {
    await deleteNow(); // as long as the session may do it
    await call("/session", { method: "DELETE" }).catch(() => null);
    session = null;
    setCsrfToken("");
    onSignedOut();
  }
}
