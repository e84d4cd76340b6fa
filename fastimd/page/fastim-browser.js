// What the browser says: it is online again, somebody looks at the page again; the page is left, and
// perhaps kept for the way back, and then its connection would seem to live on.
//
// One listener of each kind for all clients of a page, and none while nothing is open.

const watched = new Set();

const onOnline = () => watched.forEach((im) => im._renew());
const onLook = () => isSeen() && watched.forEach((im) => im._lookAgain());

const onLeave = () => watched.forEach((im) => im._rest());
const onReturn = ({ persisted }) => persisted && onOnline();

/** Tell a client of it. */
export function watchBrowser(im) {
  if (!watched.size) {
    globalThis.addEventListener?.("online", onOnline);
    globalThis.addEventListener?.("pagehide", onLeave);
    globalThis.addEventListener?.("pageshow", onReturn);
    globalThis.document?.addEventListener("visibilitychange", onLook);
  }
  watched.add(im);
}

export function unwatchBrowser(im) {
  watched.delete(im);
  if (watched.size) return;
  globalThis.removeEventListener?.("online", onOnline);
  globalThis.removeEventListener?.("pagehide", onLeave);
  globalThis.removeEventListener?.("pageshow", onReturn);
  globalThis.document?.removeEventListener("visibilitychange", onLook);
}

/** Somebody may be looking; true where there is no page. */
export function isSeen() {
  return globalThis.document?.visibilityState !== "hidden";
}
