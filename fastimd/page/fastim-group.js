// One group's chat: every message once and in order, whatever breaks; what is taken back; who is here,
// and who types.

import { Drafts } from "./fastim-drafts.js";
import { FastIMError } from "./fastim-errors.js";
import { readBack, readMissed } from "./fastim-history.js";
import { Link } from "./fastim-link.js";
import { pauseAfter, sleep } from "./fastim-pauses.js";
import { Here, Typists } from "./fastim-present.js";
import { messageOf } from "./fastim-values.js";

/**
 * @typedef {import("./fastim-values.js").Message} Message
 * @typedef {import("./fastim-drafts.js").Draft} Draft
 * @typedef {import("./fastim-present.js").Present} Present
 */

/** Milliseconds between two read marks. */
const READ_PAUSE_MS = 2_000;

/**
 * A group's chat.
 *
 * Event `message`, detail `Message`: the next message of the group, the user's own too; each once,
 * in the order of `ts`. Event `removed`, detail `{first, last, userId}`: the messages with a `ts` from
 * `first` to `last` are gone, with a `userId` only those of that user. Event `greeting`, detail
 * `Message[]`: the newest messages as they are now, after their `message` events, when the group opens
 * and when it is not certain what was missed; what is known, is not older than they are and is not among
 * them is gone. Event `reset`: so much was missed that it is not fetched; what was known is no longer
 * followed without a gap by what comes. Event `gap`, detail `{missed, from, to}`: the server has left
 * out so many messages, which the history has. Event `draft`, detail `Draft`: a text of the user's has
 * changed its state. Event `refused`, detail `{code, msg, reason, text}`: the server refused a text for
 * good. `msg` is why, as it came, and `reason` the same in the reader's language. Event `present`, detail
 * `Present`: who is here has changed. Event `typing`, detail `string[]`: who types. Event `moderation`,
 * detail as docs/ROOMS.md has it: what a moderator did that concerns the user, or the group. Event `role`:
 * `isModerator` has changed.
 */
export class Group extends Link {
  #subscription;
  #newest = 0; // the `ts` of the newest message that was told
  #isGreeted = false;
  #held = null; // what comes while it is read what was missed
  #visit = 0;
  #drafts = new Drafts(this, (draft) => this._tell("draft", draft));
  #here = new Here(this);
  #isModerator = false;
  #typists = new Typists(this);
  #tick = null;
  #readTo = 0;
  #toldRead = 0; // up to where the server knows it
  #readPause = null;

  #follower = {
    onOpened: (isWhole) => void this.#open(isWhole),
    onPublication: (publication) => this.#receive(publication),
    onComing: (userId, hasCome) => this.#notice(userId, hasCome),
    onState: (state, reason, retryAt) => this.#follow(state, reason, retryAt),
  };

  /**
   * @param {import("./fastim.js").FastIM} im
   * @param {string} groupId
   */
  constructor(im, groupId) {
    super(im);
    this.groupId = groupId;
  }

  /** @returns {Draft[]} Texts that are neither sent nor refused, oldest first. */
  get drafts() {
    return this.#drafts.list;
  }

  /** @returns {Present} Who is here, as far as that is known. */
  get present() {
    return this.#here.present;
  }

  /** @returns {boolean} The user may do what moderators do. */
  get isModerator() {
    return this.#isModerator;
  }

  /**
   * Send a text, or let it wait for the connection for a minute. It is tried until the server has
   * stored it, once, or refuses it.
   * @param {string} text
   * @returns {Draft} "unsent" at once while nothing tries to connect
   * @throws {FastIMError} it is no text or empty, or too many wait
   */
  send(text) {
    return this.#drafts.send(text);
  }

  /**
   * Send an unsent text again. If the server may have stored it in the last minutes, it is not stored
   * twice.
   * @param {Draft} draft
   * @returns {Draft} the new one
   */
  sendAgain(draft) {
    return this.#drafts.sendAgain(draft);
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
    return readBack(this, message.ts, count);
  }

  /**
   * Delete a message of the user's own, for everybody.
   * @param {Message} message
   * @throws {FastIMError} code 103: it is too old; 404: it is not there
   */
  async recall({ ts }) {
    await this.call("recall", { ts });
  }

  /** Tell the others that the user types; call it with each key, it tells what is due. */
  type() {
    this.#typists.tell();
  }

  /**
   * Note that the user has read the group up to a message; call it as often as something is seen.
   * @param {number} ts
   */
  read(ts) {
    if (ts <= this.#readTo) return;
    this.#readTo = ts;
    this._im._noticeRead(this.groupId, ts);
    this.#readPause ??= setTimeout(() => {
      this.#readPause = null;
      this._tellRead();
    }, this.#toldRead ? READ_PAUSE_MS : 0);
  }

  /**
   * Who is here now, also where `present` does not follow them.
   * @returns {Promise<string[]>} sorted
   * @throws {FastIMError} code 106: more than 1,000; 108: the server does not tell
   */
  members() {
    return this.#here.users();
  }

  /**
   * Call a method of docs/ROOMS.md: what moderators do, or `report`.
   * @param {string} method
   * @param {object} [data]  without the `channel`
   * @returns {Promise<object>} its result
   * @throws {FastIMError}
   */
  async call(method, data = {}) {
    const rpc = { method, data: { channel: this.groupId, ...data } };
    return (await this._im._connection.ask({ rpc })).rpc.data;
  }

  _begin() {
    this.#tick ??= setInterval(() => this.#lookAfter(), 1_000);
    if (this.#subscription) {
      this.#subscription.enter();
      return;
    }
    this.#subscription = this._im._subscribe(this.groupId);
    this.#subscription.follow(this.#follower);
    if (this._im._connection.state !== "connected") this._followConnection(this._im._connection);
    else this.#subscription.enter();
  }

  _end(reason) {
    this._tellRead();
    clearInterval(this.#tick);
    clearTimeout(this.#readPause);
    this.#tick = this.#readPause = null;
    this.#leave();
    this.#drafts.giveUpAll(reason);
    if (!this.#subscription) return;
    this._im._unsubscribe(this.groupId, this.#follower);
    this.#subscription = null;
  }

  /** @package */
  _followConnection({ state, reason, retryAt }) {
    if (state === "connected" || (this.#subscription?.reason && state !== "closed")) return;
    this.#leave();
    if (state === "closed") this.#drafts.giveUpAll(reason);
    this._show(state, reason, retryAt);
  }

  /** @package The connection broke. */
  _noticeBreak(why) {
    this.#leave();
    this.#drafts.noticeBreak(why);
  }

  /** @package Tell the server now up to where the user has read. */
  _tellRead() {
    const ts = this.#readTo;
    if (ts <= this.#toldRead || this.state !== "connected") return;
    this.#toldRead = ts;
    this.call("read", { ts }).catch((error) => {
      if (!(error instanceof FastIMError)) throw error;
      if (!error.isRefusal) this.#toldRead = 0; // with the next list, or the next mark
    });
  }

  #follow(state, reason = "", retryAt = null) {
    this.#leave();
    if (state === "closed") this.#drafts.giveUpAll(reason);
    this._show(state, reason, retryAt);
  }

  #leave() {
    this.#visit += 1;
    this.#held = null;
    this.#here.end();
    this.#typists.endAll();
  }

  async #open(isWhole) {
    this.#visit += 1;
    const visit = this.#visit;
    if (!(isWhole && this.#isGreeted) && !(await this.#greet(visit))) return;
    if (visit !== this.#visit) return;
    this._show("connected");
    this._im._noticeOpened(this.groupId);
    this.#here.begin();
    this.#drafts.sendAll();
    void this.#learnRole();
  }

  async #learnRole() {
    const visit = this.#visit;
    try {
      await this.call("moderators");
      if (visit === this.#visit) this.#takeRole(true);
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      if (visit === this.#visit && error.isRefusal) this.#takeRole(false);
    }
  }

  #takeRole(isModerator) {
    if (isModerator === this.#isModerator) return;
    this.#isModerator = isModerator;
    this._tell("role");
  }

  // Gives whether it is still wanted.
  async #greet(visit) {
    this.#held = [];
    const found = await this.#read(visit);
    if (!found || visit !== this.#visit) return false;
    const { list, missed, areTooMany } = found;
    if (areTooMany) this._tell("reset");
    for (const message of [...missed, ...list]) this.#deliver(message);
    this._tell("greeting", list);
    if (visit !== this.#visit) return false; // who listens may have closed it
    this.#isGreeted = true;
    const held = this.#held;
    this.#held = null;
    for (const publication of held) this.#receive(publication);
    return visit === this.#visit;
  }

  async #read(visit) {
    for (let attempt = 0; visit === this.#visit; attempt += 1) {
      try {
        return await readMissed(this, this.#newest);
      } catch (error) {
        if (!(error instanceof FastIMError)) throw error;
        // A hook may let somebody talk who may not read what was said.
        if (error.isRefusal && !error.isTemporary) return { list: [], missed: [], areTooMany: false };
        await sleep(pauseAfter(attempt));
      }
    }
    return null;
  }

  #receive(publication) {
    const { data, tags } = publication;
    const event = publication.offset ? undefined : tags?.event;
    if (event === "typing") this.#typists.notice(data.user);
    else if (event === "gap") this._tell("gap", data);
    else if (event === "moderation") this.#tellAct(data);
    else if (this.#held) this.#held.push(publication);
    else if (event === "recall" || event === "purge") this._tell("removed", removalOf(event, data));
    else if (event === undefined) this.#deliver(messageOf(this.groupId, publication), publication.offset);
  }

  #tellAct(act) {
    if (/^moderator_(added|removed)$/.test(act.act)) void this.#learnRole();
    this._tell("moderation", act);
  }

  // A message of another program may have no offset: its `ts` is no measure of what is new.
  #deliver(message, offset = message.ts) {
    if (offset && offset <= this.#newest) return;
    this.#newest = Math.max(this.#newest, offset ?? 0);
    this.#typists.end(message.userId);
    this.#drafts.hear(message);
    this._tell("message", message);
  }

  #notice(userId, hasCome) {
    this.#here.notice(userId, hasCome);
    if (!hasCome) this.#typists.end(userId);
  }

  #lookAfter() {
    this.#drafts.giveUpOld();
    if (this.state === "connected") this.#here.tick();
  }
}

// From the first to the last `ts` that is gone; of one user, or of all.
function removalOf(event, { ts, user = null, since = 0 }) {
  return event === "recall" ? { first: ts, last: ts, userId: null } : { first: since, last: ts, userId: user };
}
