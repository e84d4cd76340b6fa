// One WebSocket that is opened again whenever it breaks: what a group's chat and the list of groups
// have in common.

import { FastIMError } from "./fastim-errors.js";
import { pauseAfter, pauseAskedFor } from "./fastim-pauses.js";

/** @typedef {"connecting" | "connected" | "waiting" | "closed"} LinkState */

/** Milliseconds of waiting for a socket to open, and for its first frame. */
const OPEN_MS = 15_000;
/** Milliseconds after which a connection counts as sound, and pauses begin anew. */
const SOUND_MS = 5_000;
const TICK_MS = 1_000;
/** Milliseconds of silence after which it is asked whether a connection is dead. */
export const SILENCE_MS = 60_000;

/** The close code after which connecting again by itself would be wrong. */
const FINAL_CODE = 1008;
const CLOSED_HERE = "closed by the client";

/**
 * One WebSocket that is opened again whenever it breaks: after the pause that the server asked for,
 * else after a random one from a range that doubles, and at once when the browser is online again
 * or somebody looks at the page again.
 *
 * Event `state`: `state` has changed. `retryAt` is when it will be tried again, in milliseconds since
 * the epoch, while "waiting". `reason` is why it is "closed", until `reconnect`: "login required",
 * "kicked", "left the group", "flood", "not a member", "private group", "too many groups",
 * "not allowed" or a hook's own words.
 */
export class Link extends EventTarget {
  /** @type {LinkState} */
  state = "closed";
  reason = "";
  /** @type {number | null} */
  retryAt = null;

  #im;
  #path;
  #socket = null;
  #deadline = null;
  #pause = null;
  #tick = null;
  #attempts = 0;
  #openedAt = 0;

  constructor(im, path) {
    super();
    this.#im = im;
    this.#path = path;
    /** @protected When something was last heard on the socket, as `Date.now()`. */
    this._heardAt = 0;
  }

  /**
   * Connect now: instead of waiting, or again after the server has closed it for good.
   * @throws {FastIMError} `close` was called
   */
  reconnect() {
    if (this.reason === CLOSED_HERE) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "it was closed: open a new one");
    }
    if (this.state === "connecting" || this.state === "connected") return;
    clearTimeout(this.#pause);
    this.#tick ??= setInterval(() => this._tick(), TICK_MS);
    this.#connect();
  }

  /** Close for good; `FastIM` makes a new one when asked again. */
  close() {
    this.#drop();
    this.#stop(CLOSED_HERE);
    this.#im._forget(this);
  }

  /** @protected Text came. */
  _onText(_text) {}
  /** @protected The connection is gone; `reason` may be "". */
  _onBreak(_code, _reason) {}
  /** @protected It will not be tried again by itself. */
  _onEnd(_reason) {}
  /** @protected Look after what needs looking after, once a second. */
  _tick() {}

  /** @protected */
  get _im() {
    return this.#im;
  }

  /** @protected Which connection this is; null when there is none. */
  get _connection() {
    return this.#socket;
  }

  /** @protected */
  _transmit(text) {
    this.#socket.send(text);
  }

  /** @protected The connection does what it is for. */
  _becomeReady() {
    clearTimeout(this.#deadline);
    this.#show("connected");
  }

  /** @package Leave a connection that may be dead for a new one, or end a pause. */
  _renew() {
    if (this.state === "closed") return;
    this.#drop();
    this.#break(1006, "");
    this.reconnect();
  }

  /** @package */
  _lookAgain() {
    if (this.state === "waiting") this.reconnect();
  }

  /** @protected Give up until `reconnect`. */
  _endFor(reason) {
    this.#drop();
    this._onBreak(FINAL_CODE, reason);
    this.#stop(reason);
    if (reason === "login required") this.#im._askLogin();
  }

  #connect() {
    this.#show("connecting");
    const token = encodeURIComponent(this.#im.token || "none");
    const user = encodeURIComponent(this.#im.userId);
    const address = this.#im.url.replace(/^http/, "ws");
    const socket = new WebSocket(`${address}/group/${this.#path}/${user}/${token}`);
    this.#socket = socket;
    this.#openedAt = 0;
    this.#deadline = setTimeout(() => this._renewAfterPause(), OPEN_MS);
    const ifCurrent = (act) => (event) => this.#socket === socket && act(event);
    socket.addEventListener("open", ifCurrent(() => this.#onOpen()));
    socket.addEventListener("message", ifCurrent(({ data }) => this.#onFrame(data)));
    socket.addEventListener("close", ifCurrent(({ code, reason }) => {
      this.#drop();
      this.#break(code, reason);
    }));
  }

  #onOpen() {
    this.#openedAt = this._heardAt = Date.now();
    this._onOpen();
  }

  /** @protected The socket is open. */
  _onOpen() {}

  #onFrame(text) {
    clearTimeout(this.#deadline);
    this._heardAt = Date.now();
    if (text === "440") this._endFor("login required");
    else this._onText(text);
  }

  /** @protected Leave a connection that shows no life; try again as after any other end. */
  _renewAfterPause() {
    this.#drop();
    this.#break(1006, "");
  }

  // A socket on a dead network says that it has closed only minutes later: it is not waited for.
  #drop() {
    clearTimeout(this.#deadline);
    clearTimeout(this.#pause);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #break(code, reason) {
    if (code === FINAL_CODE) {
      this._endFor(reason);
      return;
    }
    this._onBreak(code, reason);
    if (this.#openedAt && Date.now() - this.#openedAt > SOUND_MS) this.#attempts = 0;
    const pause = pauseAskedFor(reason) ?? this.#nextPause();
    this.retryAt = Date.now() + pause;
    this.#pause = setTimeout(() => this.reconnect(), pause);
    this.#show("waiting");
  }

  // Full jitter: thousands that broke in one moment do not come back in one moment.
  #nextPause() {
    const longest = pauseAfter(this.#attempts);
    this.#attempts += 1;
    return Math.random() * longest;
  }

  #stop(reason) {
    clearInterval(this.#tick);
    this.#tick = null;
    this.#attempts = 0;
    this._onEnd(reason);
    this.#show("closed", reason);
  }

  #show(state, reason = "") {
    if (state !== "waiting") this.retryAt = null;
    this.state = state;
    this.reason = reason;
    this.dispatchEvent(new CustomEvent("state"));
  }
}
