// Looking again and again, while the page is looked at itself.

import { byId } from "./dom.js";
import { phrase, say } from "./language.js";

const link = byId("link");
const state = byId("link-state");

/** What a look gives when there is no use in looking again. */
export const ENOUGH = Symbol("enough");

/**
 * Look now, and so many seconds after each look, until the signal. While the page is hidden nothing is
 * asked. What `look` throws is shown at the top of the page.
 * @returns {() => void} looks now
 */
export function poll(seconds, look, signal) {
  let timer = 0;
  let isLooking = false;
  let isWanted = false;
  let isOver = false;

  async function run() {
    clearTimeout(timer);
    isWanted = isLooking;
    if (isLooking || isOver || signal.aborted || document.hidden) return;
    isLooking = true;
    const began = performance.now();
    try {
      isOver = (await look(signal)) === ENOUGH;
      showLink(null);
    } catch (error) {
      if (!signal.aborted) showLink(error);
    }
    isLooking = false;
    if (isOver || signal.aborted) return;
    // An answer that takes long is asked for less often.
    const pause = isWanted ? 0 : Math.max(seconds * 1000, 10 * (performance.now() - began));
    timer = setTimeout(run, pause);
  }

  document.addEventListener("visibilitychange", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  void run();
  return () => void run();
}

/** Show whether the daemon answers. */
export function showLink(error) {
  const isLost = error !== null && !error.isDenied;
  link.dataset.state = isLost ? "closed" : "connected";
  const cause = () => (error.code ? error.message : phrase("unreachable"));
  if (isLost) say(state, "lost", { cause });
  else say(state, "answers");
}
