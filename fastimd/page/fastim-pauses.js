// How long to wait before something is tried again.

/** Milliseconds of the first pause, and of the longest. */
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;

/** Milliseconds after so many attempts that failed before: they double. */
export function pauseAfter(attempts) {
  return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempts);
}

/** The pause that a close asks for by its reason; null if it asks for none. */
export function pauseAskedFor(reason) {
  const found = /^restart (\d{1,6})$/.exec(reason);
  return found ? Number(found[1]) : null;
}

export function sleep(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
