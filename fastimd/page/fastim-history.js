// The messages of a group that a client reads: the newest, those before one, those that it missed.

import { messageOf } from "./fastim-values.js";

/** Messages asked for at once. */
const PAGE = 100;
/** How many a group opens with. */
const GREETING = 50;
/** The most that are fetched to close a gap. */
const MOST_MISSED = 2_000;

/**
 * The messages just before one, or the newest.
 * @param {import("./fastim-group.js").Group} group
 * @param {number} before  a `ts`; 0: the newest
 * @param {number} count
 * @returns {Promise<import("./fastim-values.js").Message[]>} oldest first
 * @throws {import("./fastim-errors.js").FastIMError}
 */
export async function readBack({ _im: im, groupId }, before, count) {
  let found = [];
  let first = before;
  while (found.length < count) {
    // A page may end early, for its bytes.
    const since = first ? { since: { offset: first, epoch: "" } } : {};
    const history = { channel: groupId, limit: count - found.length, reverse: true, ...since };
    const { publications } = (await im._connection.ask({ history })).history;
    if (!publications.length) break;
    const page = publications.map((each) => messageOf(groupId, each)).reverse();
    found = [...page, ...found];
    first = page[0].ts;
  }
  return found;
}

/**
 * What a client that has been away is told: the newest messages, and those between them and what it
 * knows.
 * @param {import("./fastim-group.js").Group} group
 * @param {number} known  the newest `ts` that was told; 0: none was
 * @returns {Promise<{list: Message[], missed: Message[], areTooMany: boolean}>} of too many missed
 *     there are none
 * @throws {import("./fastim-errors.js").FastIMError}
 */
export async function readMissed(group, known) {
  const list = await readBack(group, 0, GREETING);
  let missed = [];
  let first = list[0];
  while (known && first && first.ts > known) {
    if (missed.length >= MOST_MISSED) return { list, missed: [], areTooMany: true };
    const page = await readBack(group, first.ts, PAGE);
    const fresh = page.filter(({ ts }) => ts > known);
    missed = [...fresh, ...missed];
    if (fresh.length < PAGE) break;
    first = page[0];
  }
  return { list, missed, areTooMany: false };
}
