// Looking again and again, while the page is looked at itself.

import { Failure } from "./api.js";
import { byId } from "./dom.js";
import { phrase, say } from "./language.js";

const link = byId("link");
const state = byId("link-state");

/** What a look gives when there is no use in looking again. */
export const ENOUGH = Symbol("enough");

/**
 * Look now, and so many seconds after each look, until the signal. While the page is hidden nothing is
 * asked. What the daemon answers instead is shown in `note`; that it does not answer, at the top.
 * @returns {() => void} looks now
 */
export function poll(seconds, look, signal, note) {
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
      if (!(error instanceof Failure)) throw error;
      if (signal.aborted) return;
      showLink(error);
      if (error.isAnswer) say(note, error.isDenied ? "denied" : "unreadable", { reason: error.message });
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
  const isLost = error !== null && !error.isAnswer;
  link.dataset.state = isLost ? "closed" : "connected";
  const cause = () => (error.code ? error.message : phrase("unreachable"));
  if (isLost) say(state, "lost", { cause });
  else say(state, "answers");
}
