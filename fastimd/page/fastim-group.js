// One group's chat: every message once and in order, whatever breaks.

import { isSeen } from "./fastim-browser.js";
import { Drafts, LATE_MS } from "./fastim-drafts.js";
import { Link, SILENCE_MS } from "./fastim-link.js";
import { Missed } from "./fastim-missed.js";
import { asMessage, parse } from "./fastim-values.js";

/**
 * @typedef {import("./fastim-values.js").Message} Message
 * @typedef {import("./fastim-drafts.js").Draft} Draft
 */

/**
 * A group's chat.
 *
 * Event `message`, detail `Message`: the next message of the group, the user's own too; each once,
 * in the order of `ts`. Event `greeting`, detail `Message[]`: the newest messages as they are now, at
 * each connection and after their `message` events; what is known, is not older than they are and is
 * not among them was recalled. Event `reset`: so much was missed that it is not fetched; what was known is no
 * longer followed without a gap by what comes. Event `draft`, detail `Draft`: a text of the user's has
 * changed its state. Event `refused`, detail `{code, msg, reason, text}`: the server refused a text; 403:
 * for good, 503: it may be tried again. `msg` is why, as it came, and `reason` the same in the reader's
 * language.
 */
export class Group extends Link {
  #held = null; // live messages that wait for the gap before them to be closed
  #missed = new Missed(this);
  #drafts = new Drafts(this, (draft) => this.#emit("draft", draft));

  /**
   * @param {import("./fastim.js").FastIM} im
   * @param {string} groupId
   */
  constructor(im, groupId) {
    super(im, `chat/${encodeURIComponent(groupId)}`);
    this.groupId = groupId;
  }

  /** @returns {Draft[]} Texts that are neither sent nor refused, oldest first. */
  get drafts() {
    return this.#drafts.list;
  }

  /**
   * Send a text, or let it wait for the connection for a minute.
   * It is "sent" when it came back, and then it is stored. One whose connection broke before that is
   * looked for among the messages; it is never sent twice by itself, but becomes "unsent" if it is
   * not there.
   * @param {string} text
   * @returns {Draft} "unsent" at once while nothing tries to connect
   * @throws {FastIMError} it is no text or empty, or too many wait
   */
  send(text) {
    return this.#drafts.send(text);
  }

  /**
   * Send an unsent text again.
   * @param {Draft} draft
   * @returns {Draft} the new one
   */
  sendAgain(draft) {
    this.discard(draft);
    return this.send(draft.text);
  }

  /**
   * Forget a text that is unsent.
   * @param {Draft} draft
   */
  discard(draft) {
    this.#drafts.discard(draft);
  }

  /**
   * The messages just before one.
   * @param {Message} message
   * @param {number} [count]
   * @returns {Promise<Message[]>} oldest first; none: there is nothing before
   * @throws {FastIMError}
   */
  history(message, count = 50) {
    return this._im.listOldMessage(message, count);
  }

  /**
   * Delete a message of the user's own, for everybody.
   * @param {Message} message
   * @throws {FastIMError} code 100: it is too old, or it is not there
   */
  recall(message) {
    return this._im.recall(message);
  }

  /** @package */
  _lookAgain() {
    if (this.state !== "connected") super._lookAgain();
    else if (this.#missed.silentFor(this._heardAt) > LATE_MS) void this.#missed.check();
  }

  async _onText(text) {
    const value = parse(text);
    if (Array.isArray(value?.list)) await this.#greet(value.list.map(asMessage), value.total);
    else if (value && "info" in value) this.#receive(asMessage(value));
    else if (value && "code" in value) this.#emit("refused", this.#drafts.refuse(value));
  }

  _onBreak(code, reason) {
    this.#held = null;
    this.#drafts.noticeBreak(code, reason);
  }

  _onEnd(reason) {
    this.#drafts.giveUpAll(reason);
  }

  async #greet(list, total) {
    const connection = this._connection;
    this.#held = [];
    const missed = await this.#fetchMissed(list, total, connection);
    if (this._connection !== connection) return;
    for (const message of [...missed, ...list]) this.#deliver(message);
    this.#emit("greeting", list);
    const held = this.#held ?? [];
    this.#held = null;
    this.#drafts.giveUpLost(connection);
    for (const message of held) this.#receive(message);
    if (this._connection !== connection) return; // who listens may have closed it
    this._becomeReady();
    this.#drafts.sendQueued();
    if (!list.length) void this.#missed.findFirst(connection);
  }

  async #fetchMissed(list, total, connection) {
    const { missed, areTooMany } = await this.#missed.find(list, total, connection);
    if (!areTooMany) return missed;
    // What is not shown may still be the user's own.
    for (const message of missed) this.#drafts.settle(message);
    this.#emit("reset");
    return [];
  }

  #receive(message) {
    if (this.#held) this.#held.push(message);
    else if (this.#deliver(message)) this.#drafts.noticeChanged(message);
  }

  #deliver(message) {
    if (message.ts <= this.#missed.newest) return false;
    this.#missed.newest = message.ts;
    const isSettled = this.#drafts.settle(message);
    this.#emit("message", message);
    return !isSettled;
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  _tick() {
    this.#drafts.giveUpQueued();
    if (this.state !== "connected") return;
    if (this.#drafts.missEcho(this._heardAt)) this._im._renewAll();
    else if (this.#missed.silentFor(this._heardAt) > SILENCE_MS && isSeen()) void this.#missed.check();
  }
}
