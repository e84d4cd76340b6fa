// How long to wait before something is tried again.

/** Milliseconds of the first pause, and of the longest. */
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;

/**
 * Milliseconds after so many attempts that failed before: a random part of what doubles, so that
 * thousands that broke in one moment do not come back in one moment.
 */
export function pauseAfter(attempts) {
  return Math.random() * Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempts);
}

export function sleep(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
