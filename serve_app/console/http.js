// Calls the API. The session's cookie goes with every call, and the CSRF token with every call that changes something.

// The application may have a route prefix, so paths begin at the folder that holds console/.
const ROOT = new URL("..", import.meta.url).pathname;

/** The server's URL, as programs need it. */
export const SERVER = location.origin + ROOT.slice(0, -1);

let csrfToken = "";

export function setCsrfToken(token) {
  csrfToken = token;
}

/** An error of the API. `detail` says what went wrong and what to do. */
export class ApiError extends Error {
  constructor(status, body) {
    super(body.detail || `the server answered with the status ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.limit = body.limit || "";
    this.requestId = body.request_id || "";
  }

  /** Return the problems by the field that they name, such as "source.uri". The key "" has all others. */
  byField() {
    const problems = {};
    for (const part of this.message.split(/; (?=[a-z_]+[\w.]*: )/)) {
      const [, name = "", text = part] = /^([a-z_][\w.]*): (.*)$/s.exec(part) || [];
      problems[name] = problems[name] ? `${problems[name]}; ${text}` : text;
    }
    return problems;
  }
}

/** Send a request and return the response. Throw ApiError if the status is not 2xx. */
export async function send(path, { method = "GET", json, body, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (method !== "GET" && csrfToken) all["X-CSRF-Token"] = csrfToken;
  if (json !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url(path), {
      method,
      headers: all,
      body: json === undefined ? body : JSON.stringify(json),
      signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  throw refusal(path, response.status, await response.json().catch(() => ({})));
}

/** Send a form and return the JSON of the response, as `call` does. Tell `onProgress` which share of it is sent. */
export function upload(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch() does not say how much it has sent
    request.open("POST", url(path));
    request.responseType = "json";
    if (csrfToken) request.setRequestHeader("X-CSRF-Token", csrfToken);
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded / total));
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("load", () => {
      const { status, response } = request;
      if (status < 300) resolve(response);
      else reject(refusal(path, status, response ?? {}));
    });
    request.send(form);
  });
}

function unreachable() {
  return new ApiError(0, { code: "unreachable", detail: "the server does not answer; is it still running?" });
}

function refusal(path, status, problem) {
  if (status === 401 && path !== "/session") document.dispatchEvent(new Event("signed-out"));
  return new ApiError(status, problem);
}

/** Send a request and return the JSON of the response. */
export async function call(path, options) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

/** Return a path whose parts are escaped: `path("streams", id)`. */
export function path(...parts) {
  return `/${parts.map(encodeURIComponent).join("/")}`;
}

/** Return the address of a path of the API, for images and links. */
export function url(path) {
  return ROOT + path.slice(1);
}

/** Return the address of a WebSocket of the API. */
export function socketUrl(path) {
  return location.origin.replace("http", "ws") + url(path);
}

/** Call `work` every `period_s` while the page is visible. Return a function that stops it. */
export function poll(work, period_s) {
  let timer = 0;
  let stopped = false;
  async function step() {
    clearTimeout(timer);
    if (stopped || document.hidden) return;
    await work();
    if (!stopped) timer = setTimeout(step, period_s * 1000);
  }
  const onVisible = () => document.hidden || step();
  document.addEventListener("visibilitychange", onVisible);
  step();
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onVisible);
  };
}
