// What the browser says: it is online again, somebody looks at the page again.
//
// One listener of each kind for all clients of a page, and none while nothing is open.

const watched = new Set();

const onOnline = () => watched.forEach((im) => im._renewAll());
const onLook = () => isSeen() && watched.forEach((im) => im._lookAgain());

/** Tell a client of it. */
export function watchBrowser(im) {
  if (!watched.size) {
    globalThis.addEventListener?.("online", onOnline);
    globalThis.document?.addEventListener("visibilitychange", onLook);
  }
  watched.add(im);
}

export function unwatchBrowser(im) {
  watched.delete(im);
  if (watched.size) return;
  globalThis.removeEventListener?.("online", onOnline);
  globalThis.document?.removeEventListener("visibilitychange", onLook);
}

/** Somebody may be looking; true where there is no page. */
export function isSeen() {
  return globalThis.document?.visibilityState !== "hidden";
}
