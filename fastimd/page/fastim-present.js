// Who is in a group, and who types there.

import { isSeen } from "./fastim-browser.js";
import { FastIMError } from "./fastim-errors.js";

/**
 * @typedef {object} Present  who is in a group
 * @property {number | null} count    users; null: nobody knows
 * @property {string[] | null} users  who they are, sorted; null: there are too many to follow
 * @property {boolean} isAvailable    false: the server does not tell
 */

/** Users of whom each coming and going is told; beyond only their number is asked for. */
const MOST_FOLLOWED = 200;
/** Milliseconds after which a number is asked for anew. */
const COUNT_MS = 30_000;
/** Milliseconds for which somebody types who is told to. */
const TYPES_MS = 6_000;
/** Milliseconds in which the server tells of one user's typing once. */
const TYPING_PAUSE_MS = 3_000;
/** Milliseconds after which it is tried again in a group that is too large. */
const LARGE_MS = 60_000;

const LIMIT_EXCEEDED = 106;
const NOT_AVAILABLE = 108;

export class Here {
  /** @type {Present} */
  present = { count: null, users: null, isAvailable: true };

  #group;
  #users = null; // a set, while they are followed
  #since = []; // who has come and gone since they were asked for
  #visit = 0;
  #countedAt = 0;

  constructor(group) {
    this.#group = group;
  }

  /** The group is open. */
  begin() {
    if (!this.present.isAvailable) return;
    this.#visit += 1;
    this.#users = null;
    void this.#count(this.#visit);
  }

  /** It is not. */
  end() {
    this.#visit += 1;
  }

  /** Somebody has come or gone. */
  notice(userId, hasCome) {
    this.#since.push([userId, hasCome]);
    if (!this.#users) return;
    this.#apply([[userId, hasCome]]);
    if (this.#users.size > MOST_FOLLOWED) this.begin();
    else this.#show(this.#users.size, this.#users);
  }

  /** Once a second. */
  tick() {
    const isOld = Date.now() - this.#countedAt > COUNT_MS;
    if (this.present.isAvailable && isOld && isSeen()) void this.#count(this.#visit);
  }

  async #count(visit) {
    this.#countedAt = Date.now();
    const isNow = () => visit === this.#visit;
    try {
      const { num_users: count } = (await this.#ask("presence_stats")).presence_stats;
      if (!isNow() || count === this.#users?.size) return;
      if (count > MOST_FOLLOWED) {
        this.#users = null;
        this.#show(count, null);
        return;
      }
      this.#since = [];
      const users = await this.users();
      if (!isNow()) return;
      this.#users = new Set(users);
      this.#apply(this.#since);
      this.#show(this.#users.size, this.#users);
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      if (isNow() && error.code === NOT_AVAILABLE) this.#show(null, null, false);
    }
  }

  /** Who is here now, as the server says. */
  async users() {
    const { presence } = (await this.#ask("presence")).presence;
    return [...new Set(Object.values(presence).map(({ user }) => user))].sort();
  }

  #ask(what) {
    return this.#group._im._connection.ask({ [what]: { channel: this.#group.groupId } });
  }

  #apply(changes) {
    for (const [userId, hasCome] of changes) {
      if (hasCome) this.#users.add(userId);
      else this.#users.delete(userId);
    }
  }

  #show(count, users, isAvailable = true) {
    this.present = { count, users: users && [...users].sort(), isAvailable };
    this.#group._tell("present", this.present);
  }
}

export class Typists {
  #group;
  #others = new Map(); // by user: the timer that ends it
  #quietUntil = 0;

  constructor(group) {
    this.#group = group;
  }

  /** Tell that the user types; it may be called with each key. */
  tell() {
    const now = Date.now();
    if (now < this.#quietUntil || this.#group.state !== "connected") return;
    this.#quietUntil = now + TYPING_PAUSE_MS;
    const data = { channel: this.#group.groupId };
    this.#group._im._connection.request({ rpc: { method: "typing", data } }, (error) => {
      if (error?.code === LIMIT_EXCEEDED) this.#quietUntil = now + LARGE_MS;
      else if (error?.isRefusal && !error.isTemporary) this.#quietUntil = Infinity;
    });
  }

  /** Somebody types. */
  notice(userId) {
    const isNew = !this.#others.has(userId);
    clearTimeout(this.#others.get(userId));
    this.#others.set(userId, setTimeout(() => this.end(userId), TYPES_MS));
    if (isNew) this.#show();
  }

  /** Somebody has said it, or has gone. */
  end(userId) {
    if (!this.#others.has(userId)) return;
    clearTimeout(this.#others.get(userId));
    this.#others.delete(userId);
    this.#show();
  }

  endAll() {
    for (const userId of [...this.#others.keys()]) this.end(userId);
  }

  #show() {
    this.#group._tell("typing", [...this.#others.keys()]);
  }
}
