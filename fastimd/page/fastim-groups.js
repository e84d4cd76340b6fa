// The live list of a user's groups.
//
// The server tells all of it when it is asked; in between, what is said in the groups is counted here,
// for which they are subscribed to, the most recently active ones.

import { isSeen } from "./fastim-browser.js";
import { FastIMError } from "./fastim-errors.js";
import { Link } from "./fastim-link.js";
import { messageOf } from "./fastim-values.js";

/**
 * @typedef {object} GroupEntry  a line of the group list
 * @property {string} groupId
 * @property {import("./fastim-values.js").Message | null} newMessage  the newest message, if there is one
 * @property {number} total   how many messages the group has
 * @property {number} unread  how many of these the user has not read
 */

/** Groups that are followed; the rest of a connection's subscriptions is for those that are opened. */
const MOST_FOLLOWED = 100;
/** Milliseconds after which the list is asked for anew, for what nobody tells. */
const ASK_MS = 30_000;
/** Milliseconds in which changes are gathered. */
const GATHER_MS = 100;
const TICK_MS = 1_000;

/**
 * The live list of the user's groups.
 *
 * Event `groups`, detail `GroupEntry[]`: the whole list, most recently active first; groups without
 * messages last.
 */
export class GroupList extends Link {
  #entries = new Map();
  #followed = new Map(); // by group: who follows its subscription
  #read = new Map(); // by group: up to where the user has read it here
  #askedAt = 0;
  #isAsking = false;
  #isStale = false; // something has changed that only the server can count
  #gathering = null;
  #tick = null;

  _begin() {
    this.#tick ??= setInterval(() => this.#lookAfter(), TICK_MS);
    if (this._im._connection.state === "connected") void this.#ask();
    else this._followConnection(this._im._connection);
  }

  _end() {
    clearInterval(this.#tick);
    clearTimeout(this.#gathering);
    this.#tick = this.#gathering = null;
    for (const groupId of [...this.#followed.keys()]) this.#unfollow(groupId);
  }

  /** @package */
  _followConnection({ state, reason, retryAt }) {
    if (state === "connected") void this.#ask();
    else this._show(state, reason, retryAt);
  }

  /** @package Somebody looks at the page again. */
  _lookAgain() {
    this.#isStale = true;
  }

  /** @package Give up a subscription, so that a group can be opened; false if there is none. */
  _yield() {
    const spare = [...this.#followed].reverse().find(([, follower]) => follower.isOpen);
    if (spare) this.#unfollow(spare[0]);
    return spare !== undefined;
  }

  /** @package A group is open: the user may be its member only now. */
  _noticeOpened(groupId) {
    this.#isStale ||= !this.#entries.has(groupId);
    this.#lookAfter();
  }

  /** @package The user has read a group. */
  _noticeRead(groupId, ts) {
    this.#read.set(groupId, ts);
    const entry = this.#entries.get(groupId);
    if (!entry?.unread) return;
    if (!entry.newMessage || ts < entry.newMessage.ts) this.#isStale = true;
    else {
      this.#entries.set(groupId, { ...entry, unread: 0 });
      this.#show(); // somebody looks at it
    }
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#isStale = false;
    this.#askedAt = Date.now();
    if (this.state !== "connected") this._show("connecting");
    this._im._tellRead(); // the answer counts what is not read
    try {
      const rpc = { method: "groups", data: {} };
      const { groups } = (await this._im._connection.ask({ rpc })).rpc.data;
      if (this.#tick === null) return; // closed meanwhile
      this.#entries = new Map(groups.map((each) => [each.channel, entryOf(each)]));
      this._show("connected");
      this.#gather();
      this.#followNewest();
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      const isUp = this._im._connection.state === "connected";
      if (error.isRefusal && !error.isTemporary) this._show("closed", error.msg);
      else if (isUp) this._show("waiting", "", Date.now() + ASK_MS);
    } finally {
      this.#isAsking = false;
    }
  }

  #lookAfter() {
    const isUp = this._im._connection.state === "connected" && this.state !== "closed";
    const isDue = this.#isStale || (Date.now() - this.#askedAt > ASK_MS && isSeen());
    if (isUp && isDue) void this.#ask();
  }

  #followNewest() {
    const newest = [...this.#entries.keys()].slice(0, MOST_FOLLOWED);
    const wanted = new Set(newest);
    for (const groupId of [...this.#followed.keys()]) if (!wanted.has(groupId)) this.#unfollow(groupId);
    for (const groupId of newest) if (!this.#followed.has(groupId)) this.#follow(groupId);
  }

  #follow(groupId) {
    const follower = {
      isSpare: true,
      isOpen: false,
      onOpened: (isWhole) => {
        // What was said between the answer and now.
        if (!isWhole && !follower.isOpen) this.#isStale = true;
        follower.isOpen = true;
      },
      onPublication: (publication) => this.#receive(groupId, publication),
      onState: (state) => {
        if (state !== "closed") return;
        follower.isOpen = false;
        this.#isStale = true; // the user may have left it
      },
    };
    this.#followed.set(groupId, follower);
    const subscription = this._im._subscribe(groupId);
    subscription.follow(follower);
    if (!subscription.reason) subscription.enter();
  }

  #unfollow(groupId) {
    const follower = this.#followed.get(groupId);
    this.#followed.delete(groupId);
    this._im._unsubscribe(groupId, follower);
  }

  #receive(groupId, publication) {
    const entry = this.#entries.get(groupId);
    const { offset, tags } = publication;
    if (!entry) return;
    if (!offset && tags?.event === "gap") this.#count(groupId, publication.data.missed);
    else if (!offset) this.#isStale ||= tags?.event === "recall" || tags?.event === "purge";
    else if (offset > (entry.newMessage?.ts ?? 0)) {
      this.#count(groupId, 1, offset <= (this.#read.get(groupId) ?? 0) ? 0 : 1);
      this.#change(groupId, { newMessage: messageOf(groupId, publication) });
    }
  }

  #count(groupId, said, unread = said) {
    const { total, unread: before } = this.#entries.get(groupId);
    this.#change(groupId, { total: total + said, unread: before + unread });
  }

  #change(groupId, change) {
    this.#entries.set(groupId, { ...this.#entries.get(groupId), ...change });
    this.#gather();
  }

  #gather() {
    this.#gathering ??= setTimeout(() => this.#show(), GATHER_MS);
  }

  #show() {
    clearTimeout(this.#gathering);
    this.#gathering = null;
    this._tell("groups", [...this.#entries.values()].sort((a, b) => activityOf(b) - activityOf(a)));
  }
}

const activityOf = ({ newMessage }) => newMessage?.ts ?? 0;

function entryOf({ channel, total, unread, last }) {
  return { groupId: channel, newMessage: last ? messageOf(channel, last) : null, total, unread };
}
