// Deletions of streams and jobs that can still be undone. The page delays the call, so a page that is closed deletes
// nothing.

import { call, path } from "./http.js";
import { later } from "./notices.js";

const leaving = new Set(); // paths

/** Return whether this stream or job will be deleted, unless the user undoes it. `kind`: "streams" or "jobs". */
export function isLeaving(kind, id) {
  return leaving.has(path(kind, id));
}

/** Delete a stream or a job after 10 s, unless the user undoes it. */
export function deleteLater(kind, id, onChange = () => {}) {
  const address = path(kind, id);
  leaving.add(address);
  const forget = () => {
    leaving.delete(address);
    onChange();
  };
  const remove = async () => {
    await call(address, { method: "DELETE" });
    forget();
  };
  later(`${id} will be deleted.`, remove, forget);
  onChange();
}
