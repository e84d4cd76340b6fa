// What a group's socket has missed, and the history still has.
//
// `newest` is the `ts` of the newest message that was told. Where a server greets with no messages
// there may be none: then it counts how many the group had at the first greeting, and what comes
// after these is not to be missed.

import { FastIMError } from "./fastim-errors.js";
import { LATE_MS } from "./fastim-drafts.js";
import { pauseAfter, sleep } from "./fastim-pauses.js";

/** Messages asked for at once to close a gap, and the most that are fetched so. */
const PAGE = 100;
const MOST_MISSED = 2_000;

export class Missed {
  /** The `ts` of the newest message that was told; 0: none was. */
  newest = 0;

  #group;
  #isGreeted = false;
  #firstTotal = 0;
  #firstTs = null; // of the last of the first total, null until it is known
  #checkedAt = 0;

  /** @param {import("./fastim-group.js").Group} group */
  constructor(group) {
    this.#group = group;
  }

  /**
   * The messages between what was told and a greeting.
   * @param {import("./fastim-values.js").Message[]} list  of the greeting
   * @param {number} total                                 how many the group has
   * @param {WebSocket} connection                         of the greeting: another one ends the search
   * @returns {Promise<{missed: import("./fastim-values.js").Message[], areTooMany: boolean}>} oldest
   *     first; of too many there are some, which are not to be told
   */
  async find(list, total, connection) {
    if (!this.#isGreeted) {
      this.#isGreeted = true;
      this.#firstTotal = total;
      return { missed: [], areTooMany: false };
    }
    if (list.length) {
      const gap = list.length < total && list[0].ts > this.#known;
      return gap ? this.#fetch(list[0], connection) : { missed: [], areTooMany: false };
    }
    // The server greets with no messages: then the history has what was missed, if it may be read.
    if (!total || !this.#group._im.token) return { missed: [], areTooMany: false };
    await this.findFirst(connection);
    return this.#fetch(null, connection);
  }

  /**
   * Where a server greets with no messages: learn what was there before. It is not waited for when it
   * greets first: no message depends on it, but for what is missed later.
   */
  async findFirst(connection) {
    const { _im: im, groupId } = this.#group;
    if (this.#firstTs !== null || this.newest || !im.token) return;
    const last = this.#firstTotal - 1;
    const ask = () => im.listMessage(groupId, last, last);
    const [message] = last < 0 ? [] : await this.#ask(ask, connection);
    if (this.#group._connection === connection) this.#firstTs = message?.ts ?? 0;
  }

  // The `ts` up to which nothing is missing.
  get #known() {
    return Math.max(this.newest, this.#firstTs ?? 0);
  }

  // Back from the greeting, or from the end of the history, page by page, until it joins what is known.
  async #fetch(oldest, connection) {
    const { _im: im, groupId } = this.#group;
    let missed = [];
    let first = oldest;
    while (missed.length < MOST_MISSED) {
      const ask = () => first
        ? im.listOldMessage(first, PAGE)
        : im.listMessage(groupId, -PAGE, -1);
      const page = await this.#ask(ask, connection);
      const fresh = page.filter(({ ts }) => ts > this.#known);
      missed = [...fresh, ...missed];
      if (!page.length || fresh.length < page.length) return { missed, areTooMany: false };
      first = page[0];
    }
    if (!oldest) this.#firstTs = missed.at(-1).ts; // no greeting will say it
    return { missed, areTooMany: true };
  }

  // What the history answers; nothing when the connection is another one meanwhile.
  async #ask(ask, connection) {
    for (let attempt = 0; this.#group._connection === connection; attempt += 1) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof FastIMError)) throw error;
        if (error.code === 440) this.#group._endFor("login required");
        else await sleep(pauseAfter(attempt));
      }
    }
    return [];
  }

  /** Milliseconds since something was heard, or asked. */
  silentFor(heardAt) {
    return Date.now() - Math.max(heardAt, this.#checkedAt);
  }

  /**
   * Open all connections again if this one is dead. No script can ping a WebSocket. But the history
   * knows what the socket should have brought.
   */
  async check() {
    const { _connection: connection, _im: im, groupId } = this.#group;
    this.#checkedAt = Date.now();
    try {
      const [newest] = await im.listMessage(groupId, -1, -1);
      if (!newest || newest.ts <= this.#known) return;
      await sleep(LATE_MS);
      if (newest.ts <= this.#known) return;
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      if (error.code !== FastIMError.NO_ANSWER) return;
    }
    if (this.#group._connection === connection) im._renewAll();
  }
}
