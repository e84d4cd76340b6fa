// What a group's chat and the list of groups have in common: a state, which is the connection's and
// their own.

import { FastIMError } from "./fastim-errors.js";

/** @typedef {"connecting" | "connected" | "waiting" | "closed"} LinkState */

const CLOSED_HERE = "closed by the client";

/**
 * Something that lives on a user's connection, and comes back with it.
 *
 * Event `state`: `state` has changed. `retryAt` is when it will be tried again, in milliseconds since
 * the epoch, while "waiting". `reason` is why it is "closed", until `reconnect`: "login required",
 * "kicked", "put out", "not a member", "private group", "too many groups" or the words of the server
 * or a hook. While "waiting" it is "no socket" if the server has never opened one.
 */
export class Link extends EventTarget {
  /** @type {LinkState} */
  state = "closed";
  reason = "";
  /** @type {number | null} */
  retryAt = null;

  #im;

  constructor(im) {
    super();
    this.#im = im;
  }

  /**
   * Connect now: instead of waiting, or again after the server has closed it for good. A connection
   * that was closed comes back with all that lived on it.
   * @throws {FastIMError} `close` was called
   */
  reconnect() {
    if (this.reason === CLOSED_HERE) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "it was closed: open a new one");
    }
    this._begin();
    this.#im._connection.open();
  }

  /** Close for good; `FastIM` makes a new one when asked again. */
  close() {
    this._end(CLOSED_HERE);
    this._show("closed", CLOSED_HERE);
    this.#im._forget(this);
  }

  /** @protected */
  get _im() {
    return this.#im;
  }

  /** @protected Begin anew what the server has ended. */
  _begin() {}
  /** @protected It is over, until it begins anew. */
  _end(_reason) {}
  /** @package The connection has another state. */
  _followConnection(_connection) {}

  /** @protected */
  _show(state, reason = "", retryAt = null) {
    const isSame = state === this.state && reason === this.reason && retryAt === this.retryAt;
    if (isSame) return;
    this.state = state;
    this.reason = reason;
    this.retryAt = retryAt;
    this._tell("state");
  }

  /** @protected */
  _tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
