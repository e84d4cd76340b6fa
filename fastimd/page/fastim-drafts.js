// The user's texts on their way to one group. Each has a nonce, by which the server knows it again: it
// may be sent as often as it takes, and is stored once.

import { BROKEN, SILENT } from "./fastim-connection.js";
import { FastIMError, inLanguage } from "./fastim-errors.js";
import { pauseAfter } from "./fastim-pauses.js";

/**
 * @typedef {object} Draft  a text on its way; the event `draft` tells each change of its state
 * @property {string} text
 * @property {"queued" | "sending" | "sent" | "unsent" | "refused"} state
 * @property {string} msg     why it is unsent or refused, "" else, as it came: to compare
 * @property {string} reason  the same in the reader's language: to show
 * @property {import("./fastim-values.js").Message | null} message  what became of it, once it is sent
 */

/** Milliseconds for which it is tried to send a text. */
const TRY_MS = 60_000;
/** Milliseconds for which the server knows a nonce again, and a minute less: five minutes. */
const NONCE_MS = 240_000;
/** Milliseconds in which a message that is stored should come, unless it is left out. */
const HEAR_MS = 3_000;
/** Texts that may wait for a connection. */
const QUEUE_LENGTH = 32;
/** Own messages that are remembered, in case that the answer comes behind them. */
const MOST_HEARD = 64;

export class Drafts {
  /** @type {Draft[]} Texts that are neither sent nor refused, oldest first. */
  list = [];

  #group;
  #tell;
  #ways = new WeakMap(); // what is known of a draft beside what others see
  #stored = new Map(); // by ts: drafts whose message is stored, and did not come yet
  #heard = new Map(); // by ts: the user's messages

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
   * @param {{nonce: string, sentAt: number}} [way]  of a try before
   * @returns {Draft}
   * @throws {FastIMError} it is no text or empty, or too many wait
   */
  send(text, { nonce = makeNonce(), sentAt = 0 } = {}) {
    if (typeof text !== "string" || !text) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "an empty text, or none");
    }
    if (this.list.filter(({ state }) => state === "queued").length >= QUEUE_LENGTH) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "too many texts wait for the connection");
    }
    const wellFormed = text.toWellFormed?.() ?? text;
    const draft = { text: wellFormed, state: "queued", reason: "", msg: "", message: null };
    this.list.push(draft);
    this.#ways.set(draft, { nonce, sentAt, since: Date.now(), attempts: 0, isAsked: false });
    const { state, reason } = this.#group;
    if (state === "connected") this.#transmit(draft);
    else if (state === "closed") this.#change(draft, "unsent", reason);
    else this.#tell(draft);
    return draft;
  }

  /** Send an unsent text again: if the server may have it, as the same one. */
  sendAgain(draft) {
    const { nonce, sentAt } = this.#ways.get(draft) ?? {};
    this.discard(draft);
    return Date.now() - sentAt < NONCE_MS ? this.send(draft.text, { nonce, sentAt }) : this.send(draft.text);
  }

  discard(draft) {
    this.list = this.list.filter((each) => each !== draft);
  }

  /** The group is open: send what waited for it, and again what was not answered. */
  sendAll() {
    for (const draft of [...this.list]) {
      const isAsked = this.#ways.get(draft).isAsked;
      if (draft.state === "queued" || (draft.state === "sending" && !isAsked)) this.#transmit(draft);
    }
  }

  /** A message has come: is it a draft? */
  hear(message) {
    if (message.userId !== this.#group._im.userId) return;
    const draft = this.#stored.get(message.ts);
    this.#stored.delete(message.ts);
    if (draft) this.#end(draft, "sent", { message });
    this.#heard.set(message.ts, message);
    if (this.#heard.size > MOST_HEARD) this.#heard.delete(this.#heard.keys().next().value);
  }

  /** The connection broke. A text that broke it is not sent again. */
  noticeBreak(why) {
    const most = Number(/^more than (\d+) bytes$/.exec(why)?.[1] ?? Infinity);
    for (const draft of [...this.list]) {
      if (draft.state === "sending" && bytesOf(draft.text) > most / MOST_ESCAPED) this.#refuse(draft, 106, why);
    }
  }

  /** It will not be connected again by itself. */
  giveUpAll(reason) {
    for (const draft of [...this.list]) {
      if (draft.state !== "unsent") this.#change(draft, "unsent", reason);
    }
  }

  /** Nothing is tried for ever. */
  giveUpOld() {
    for (const draft of [...this.list]) {
      const { since, sentAt, trouble } = this.#ways.get(draft);
      const isOver = draft.state !== "unsent" && Date.now() - since > TRY_MS;
      if (isOver) this.#change(draft, "unsent", trouble || (sentAt ? BROKEN : "no connection"));
    }
  }

  #transmit(draft) {
    const way = this.#ways.get(draft);
    const data = { channel: this.#group.groupId, data: draft.text, nonce: way.nonce };
    way.sentAt ||= Date.now();
    way.isAsked = true;
    if (draft.state !== "sending") this.#change(draft, "sending");
    this.#group._im._connection.request({ rpc: { method: "send", data } }, (error, reply) => {
      way.isAsked = false;
      if (!error) this.#store(draft, reply.rpc.data.ts);
      else if (draft.state === "sending" && this.list.includes(draft)) this.#fail(draft, error);
    });
  }

  #fail(draft, error) {
    const way = this.#ways.get(draft);
    const { code, msg, isTemporary, isRefusal } = error;
    if (isRefusal && !isTemporary) this.#refuse(draft, code, msg);
    else if (SLOW_MODE.test(msg)) this.#change(draft, "unsent", msg);
    else if (msg !== BROKEN) {
      way.trouble = msg === SILENT ? "" : msg;
      setTimeout(() => this.#retry(draft), pauseAfter(way.attempts));
      way.attempts += 1;
    }
  }

  #retry(draft) {
    const isWaiting = draft.state === "sending" && !this.#ways.get(draft).isAsked;
    if (isWaiting && this.list.includes(draft) && this.#group.state === "connected") this.#transmit(draft);
  }

  // It is stored: it is sent when it is heard, and if it is left out of what is heard, soon after.
  #store(draft, ts) {
    const message = this.#heard.get(ts);
    if (message) {
      this.#end(draft, "sent", { message });
      return;
    }
    const { groupId, _im: { userId } } = this.#group;
    this.#stored.set(ts, draft);
    setTimeout(() => {
      if (!this.#stored.delete(ts)) return;
      this.#end(draft, "sent", { message: { groupId, userId, info: draft.text, ts } });
    }, HEAR_MS);
  }

  #refuse(draft, code, msg) {
    this.#group._tell("refused", { code, msg, reason: this.#read(msg), text: draft.text });
    this.#end(draft, "refused", { msg });
  }

  #change(draft, state, msg = "") {
    draft.state = state;
    draft.msg = msg;
    draft.reason = this.#read(msg);
    this.#tell(draft);
  }

  #end(draft, state, { msg = "", message = null }) {
    this.discard(draft);
    draft.message = message;
    this.#change(draft, state, msg);
  }

  #read(msg) {
    return inLanguage(msg, this.#group._im.language);
  }
}

const SLOW_MODE = /^slow mode/;
/** Bytes of a frame for one of a text, at most. */
const MOST_ESCAPED = 6;

// Not crypto.randomUUID, which pages without TLS do not have.
function makeNonce() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}
