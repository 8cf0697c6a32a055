// Deletions of streams that can still be undone. The page delays the call, so a page that is closed deletes nothing.

import { call, path } from "./http.js";
import { later } from "./notices.js";

export const leaving = new Set(); // ids of streams

/** Delete a stream after 10 s, unless the user undoes it. */
export function deleteLater(id, onChange) {
  leaving.add(id);
  const forget = () => {
    leaving.delete(id);
    onChange();
  };
  const remove = async () => {
    await call(path("streams", id), { method: "DELETE" });
    forget();
  };
  later(`${id} will be deleted.`, remove, forget);
  onChange();
}
