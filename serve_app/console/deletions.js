// Deletions of streams and jobs that can still be undone. The page delays the call, so a page that is closed deletes
// nothing.

import { call, path } from "./http.js";
import { later, notify } from "./notices.js";

const leaving = new Map(); // what can still be done about each deletion, by path

/** Return whether this stream or job will be deleted, unless the user undoes it. `kind`: "streams" or "jobs". */
export function isLeaving(kind, id) {
  return leaving.has(path(kind, id));
}

/** Delete a stream or a job after 10 s, unless the user undoes it. */
export function deleteLater(kind, id, onChange = () => {}) {
  const address = path(kind, id);
  if (leaving.has(address)) return;
  const forget = () => {
    leaving.delete(address);
    return onChange();
  };
  const remove = async () => {
    await call(address, { method: "DELETE" });
    return forget();
  };
  leaving.set(address, later(`${id} will be deleted.`, remove, forget));
  onChange();
}

/** Delete now what can still be undone. */
export function deleteNow() {
  return Promise.all([...leaving.values()].map(({ now }) => now()));
}

/** Delete nothing of it, because the session that wanted it is over. */
export function dropDeletions() {
  for (const [address, { drop }] of leaving) {
    leaving.delete(address);
    drop();
    notify(`${decodeURIComponent(address.split("/").pop())} was not deleted, because the session is over.`, "bad");
  }
}
