// The user's texts on their way to one group: sent once, and followed until it is known what became
// of them.

import { FastIMError, inLanguage } from "./fastim-errors.js";

/**
 * @typedef {object} Draft  a text on its way; the event `draft` tells each change of its state
 * @property {string} text
 * @property {"queued" | "sending" | "sent" | "unsent" | "refused"} state
 * @property {string} msg     why it is unsent or refused, "" else, as it came: to compare
 * @property {string} reason  the same in the reader's language: to show
 * @property {import("./fastim-values.js").Message | null} message  what became of it, once it is sent
 */

/** Milliseconds of silence after a text was sent; longer than a daemon holds one (10 s). */
const ECHO_MS = 15_000;
/** Milliseconds that a message may need from the history's sight to the socket. */
export const LATE_MS = 3_000;
/** Milliseconds that a text, changed on its way by a hook of the server, is waited for unchanged. */
const CHANGED_MS = 1_000;
/** Milliseconds for which a text may wait for a connection. */
const QUEUE_MS = 60_000;
/** Texts that may wait for a connection. */
const QUEUE_LENGTH = 32;

export class Drafts {
  /** @type {Draft[]} Texts that are neither sent nor refused, oldest first. */
  list = [];

  #group;
  #tell;

  /**
   * @param {import("./fastim-group.js").Group} group
   * @param {(draft: Draft) => void} tell  called after each change of a draft
   */
  constructor(group, tell) {
    this.#group = group;
    this.#tell = tell;
  }

  /**
   * Send a text now or later.
   * @param {string} text
   * @returns {Draft}
   * @throws {FastIMError} it is no text or empty, or too many wait
   */
  send(text) {
    if (typeof text !== "string" || !text) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "an empty text, or none");
    }
    if (this.list.filter(({ state }) => state === "queued").length >= QUEUE_LENGTH) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "too many texts wait for the connection");
    }
    const wellFormed = text.toWellFormed?.() ?? text;
    const draft = { text: wellFormed, state: "queued", reason: "", msg: "", message: null };
    this.list.push(Object.defineProperty(draft, "since", { value: Date.now(), writable: true }));
    const { state, reason } = this.#group;
    if (state === "connected") this.#transmit(draft);
    else if (state === "closed") this.#change(draft, "unsent", reason);
    else this.#tell(draft);
    return draft;
  }

  discard(draft) {
    this.list = this.list.filter((each) => each !== draft);
  }

  /** The connection stands: send what waited for it. */
  sendQueued() {
    for (const draft of this.list) if (draft.state === "queued") this.#transmit(draft);
  }

  #transmit(draft) {
    this.#group._transmit(draft.text);
    draft.since = Date.now();
    this.#change(draft, "sending");
  }

  /**
   * A message of the user's own is the draft with its text that was sent first; one that was given
   * up, if no other has this text.
   * @returns {boolean} false: it is the user's own, and of no draft
   */
  settle(message) {
    if (message.userId !== this.#group._im.userId) return true;
    const same = this.list.filter(({ text, state }) => text === message.info && state !== "queued");
    const draft = same.find(isUnderWay) ?? same[0];
    if (draft) this.#end(draft, "sent", { message });
    return draft !== undefined;
  }

  /**
   * An own message that no draft has the text of: from another device, or a draft that a hook of the
   * server has changed. If that draft's own text does not come soon after, it was changed.
   */
  noticeChanged(message) {
    const connection = this.#group._connection;
    const heardAt = Date.now();
    setTimeout(() => {
      if (this.#group._connection !== connection) return;
      const isIt = (draft) => isUnderWay(draft) && draft.since <= heardAt;
      const draft = this.list.find(isIt);
      if (draft) this.#end(draft, "sent", { message });
    }, CHANGED_MS);
  }

  /**
   * The server has refused a text; after 503 it may be tried again.
   * @returns {{code: number, msg: string, reason: string, text: string}} what is to be told of it
   */
  refuse({ code, msg, data }) {
    const said = String(msg);
    const refusal = { code: Number(code), msg: said, reason: this.#read(said), text: String(data) };
    const draft = this.list.find((each) => isUnderWay(each) && each.text === refusal.text);
    if (draft && refusal.code === 503) this.#change(draft, "unsent", said);
    else if (draft) this.#end(draft, "refused", { msg: said });
    return refusal;
  }

  /** The connection broke. The fate of what was sent is told when the messages since are known. */
  noticeBreak(code, reason) {
    const most = code === 1009 ? bytesAllowed(reason) : Infinity;
    for (const draft of this.list.filter(isUnderWay)) {
      this.#explain(draft, bytesOf(draft.text) > most ? reason || "too large" : "connection lost");
    }
  }

  /**
   * All messages since a break are known, and what was lost is not among them; what was still on its
   * way gets a moment. (One may come even later, when a server held it for a Redis that was away: then
   * it is found, and is "sent".)
   */
  giveUpLost(connection) {
    const lost = this.list.filter(isLost);
    setTimeout(() => {
      if (this.#group._connection !== connection) return;
      for (const draft of lost) if (isLost(draft)) this.#change(draft, "unsent", draft.msg);
    }, LATE_MS);
  }

  /** Nothing waits for ever. */
  giveUpQueued() {
    for (const draft of this.list) {
      const isOld = draft.state === "queued" && Date.now() - draft.since > QUEUE_MS;
      if (isOld) this.#change(draft, "unsent", "no connection");
    }
  }

  /** It will not be connected again by itself. */
  giveUpAll(reason) {
    for (const draft of this.list) {
      if (draft.state !== "unsent") this.#change(draft, "unsent", draft.msg || reason);
    }
  }

  /** A text should have come back by now, and nothing at all has come since it was sent. */
  missEcho(heardAt) {
    const now = Date.now();
    const isLate = (draft) => isUnderWay(draft) && now - draft.since > ECHO_MS;
    return this.list.some(isLate) && now - heardAt > ECHO_MS;
  }

  #change(draft, state, msg = "") {
    draft.state = state;
    this.#explain(draft, msg);
    this.#tell(draft);
  }

  #end(draft, state, { msg = "", message = null }) {
    this.discard(draft);
    draft.message = message;
    this.#change(draft, state, msg);
  }

  #explain(draft, msg) {
    draft.msg = msg;
    draft.reason = this.#read(msg);
  }

  #read(msg) {
    return inLanguage(msg, this.#group._im.language);
  }
}

function isUnderWay({ state, msg }) {
  return state === "sending" && !msg;
}

function isLost({ state, msg }) {
  return state === "sending" && msg !== "";
}

// What a close with 1009 says.
function bytesAllowed(reason) {
  return Number(/^more than (\d+) bytes$/.exec(reason)?.[1] ?? 0);
}

function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}
