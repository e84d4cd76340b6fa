// fastim.js: a client of fastimd (and of Fast-IM), for browsers and whatever else has fetch, WebSocket
// and EventTarget. It depends on nothing but the files fastim-*.js beside it; docs/FASTIM_JS.md shows it
// at work.
//
// Theory of operation: a `Connection` keeps one WebSocket open, and opens it again when it breaks. On it
// a `Subscription` is in one group: it comes back with the position that it has reached, and the server
// says what it missed, or that it cannot. A `Group` is what an application sees of that, and reads the
// history where the server could not say. Nothing is missing, nothing comes twice, and everything comes
// in order. What the user says has a nonce, so it can be sent until the server has it, and is said once.

import { unwatchBrowser, watchBrowser } from "./fastim-browser.js";
import { Connection } from "./fastim-connection.js";
import { readersLanguage } from "./fastim-errors.js";
import { Group } from "./fastim-group.js";
import { GroupList } from "./fastim-groups.js";
import { post, refusalOf } from "./fastim-http.js";
import { Subscription } from "./fastim-subscription.js";
import { baseOf, idOf, parseMessage } from "./fastim-values.js";

export { FastIMError, inLanguage } from "./fastim-errors.js";
export { Group, GroupList };

/**
 * @typedef {import("./fastim-values.js").Message} Message
 * @typedef {import("./fastim-groups.js").GroupEntry} GroupEntry
 * @typedef {import("./fastim-drafts.js").Draft} Draft
 * @typedef {import("./fastim-present.js").Present} Present
 * @typedef {import("./fastim-link.js").LinkState} LinkState
 */

/** What `joinGroup` answers to who is a member. */
const WAS_MEMBER = "操作失败";

/**
 * A user at a server.
 *
 * Event `login`: the server no longer takes the token. What has ended for that begins again after
 * the next `login`.
 */
export class FastIM extends EventTarget {
  #groups = new Map();
  #subscriptions = new Map();
  #list = null;

  /**
   * @param {object} options
   * @param {string} options.url      where the server is, http(s): or ws(s):, a path may follow
   * @param {string} options.userId
   * @param {string} [options.token]  one that the user has; else `login` gets one
   * @param {string} [options.language]  of the reasons in errors: "zh" or another that begins so, else
   *                                     English; the browser's if there is none
   * @throws {FastIMError} the url or the user id is none
   */
  constructor({ url, userId, token = "", language = readersLanguage() }) {
    super();
    this.url = baseOf(url);
    this.userId = idOf("userId", userId);
    this.token = token;
    this.language = language;
    /** @package */
    this._connection = new Connection(this);
    this._connection.onChange = (change, why) => (change === "break" ? this.#break(why) : this.#follow());
    this._connection.onPush = ({ channel, ...push }) => this.#subscriptions.get(channel)?.take(push);
  }

  /**
   * Get a token, and keep it in memory only. An older token of the user ends.
   * @param {string} password
   * @returns {Promise<unknown>} what the server says of the user
   * @throws {FastIMError}
   */
  async login(password) {
    const { msg, data } = await post(this, "/user/login", { userId: this.userId, password });
    this.token = msg;
    const { state, reason } = this._connection;
    if (state === "closed" && reason === "login required") this._connection.open();
    else this._connection.renew(); // it knows the older token
    return data;
  }

  /**
   * Open a group's chat, or get the one that is open. The server may let in members only: then call
   * `joinGroup` before.
   * @param {string} groupId
   * @returns {Group}
   * @throws {FastIMError} the group id is none
   */
  join(groupId) {
    const id = idOf("groupId", groupId);
    if (!this.#groups.has(id)) {
      const group = new Group(this, id);
      this.#groups.set(id, group);
      this.#open(group);
    }
    return this.#groups.get(id);
  }

  /**
   * Open the live list of the user's groups, or get the one that is open.
   * @returns {GroupList}
   */
  watchGroups() {
    if (!this.#list) {
      this.#list = new GroupList(this);
      this.#open(this.#list);
    }
    return this.#list;
  }

  /** Close everything. */
  close() {
    for (const link of this.#links) link.close();
  }

  /**
   * Become a member of a group.
   * @param {string} groupId
   * @returns {Promise<boolean>} false if the user was one
   * @throws {FastIMError} code 100: the user is in too many groups
   */
  async joinGroup(groupId) {
    const answer = await post(this, "/user/joinGroup", { groupId }, [200, 100]);
    if (answer.code === 100 && answer.msg !== WAS_MEMBER) throw refusalOf(this, answer);
    return answer.code === 200;
  }

  /**
   * Leave a group, on all devices: their chat sockets in it are closed.
   * @param {string} groupId
   * @returns {Promise<boolean>} false if the user was not a member
   * @throws {FastIMError}
   */
  async leaveGroup(groupId) {
    const answer = await post(this, "/user/leaveGroup", { groupId }, [200, 100]);
    return answer.code === 200;
  }

  /**
   * The ids of the user's groups, in no order.
   * @returns {Promise<string[]>}
   * @throws {FastIMError}
   */
  async listGroup() {
    return (await post(this, "/user/listGroup", {})).data.map(String);
  }

  /**
   * Messages by their place in the group's list; both ends are inclusive, negative numbers count
   * from the end.
   * @param {string} groupId
   * @param {number} first
   * @param {number} last
   * @returns {Promise<Message[]>} oldest first
   * @throws {FastIMError}
   */
  async listMessage(groupId, first, last) {
    const range = { groupId, startPage: first, endPage: last };
    return (await post(this, "/group/listMessage", range)).data.map(parseMessage);
  }

  /**
   * The messages just before one, which may be gone.
   * @param {Message} message
   * @param {number} count
   * @returns {Promise<Message[]>} oldest first; none: there is nothing before
   * @throws {FastIMError}
   */
  async listOldMessage({ groupId, userId, ts }, count) {
    const place = { groupId, userId, ts, count };
    return (await post(this, "/group/listOldMessage", place)).data.map(parseMessage);
  }

  /**
   * Delete a message of the user's own, for everybody, in a group that need not be open.
   * @param {Message} message
   * @throws {FastIMError} code 100: it is too old, or it is not there
   */
  async recall({ groupId, ts }) {
    await post(this, "/group/delMessage", { groupId, ts });
  }

  get #links() {
    return [...this.#groups.values(), ...(this.#list ? [this.#list] : [])];
  }

  #open(link) {
    if (this.#links.length === 1) watchBrowser(this);
    link.reconnect();
  }

  #break(why) {
    for (const subscription of this.#subscriptions.values()) subscription.suspend();
    for (const group of this.#groups.values()) group._noticeBreak(why);
  }

  #follow() {
    const { state } = this._connection;
    for (const link of this.#links) link._followConnection(this._connection);
    if (state !== "connected") return;
    for (const subscription of [...this.#subscriptions.values()]) {
      if (!subscription.reason) subscription.enter();
    }
  }

  /** @package A link was closed by its owner. */
  _forget(link) {
    if (link === this.#list) this.#list = null;
    else this.#groups.delete(link.groupId);
    if (this.#links.length) return;
    unwatchBrowser(this);
    this._connection.close();
  }

  /** @package */
  _subscribe(groupId) {
    if (!this.#subscriptions.has(groupId)) {
      this.#subscriptions.set(groupId, new Subscription(this, groupId));
    }
    return this.#subscriptions.get(groupId);
  }

  /** @package */
  _unsubscribe(groupId, follower) {
    const subscription = this.#subscriptions.get(groupId);
    subscription.unfollow(follower);
    if (subscription.isFollowed) return;
    this.#subscriptions.delete(groupId);
    subscription.leave();
  }

  /** @package Give up a subscription that only the list has; false if there is none. */
  _makeRoom(subscription) {
    return !subscription.isSpare && (this.#list?._yield() ?? false);
  }

  /** @package */
  _noticeOpened(groupId) {
    this.#list?._noticeOpened(groupId);
  }

  /** @package */
  _tellRead() {
    for (const group of this.#groups.values()) group._tellRead();
  }

  /** @package */
  _noticeRead(groupId, ts) {
    this.#list?._noticeRead(groupId, ts);
  }

  /** @package The server does not take the token. */
  _askLogin() {
    this.dispatchEvent(new CustomEvent("login"));
  }

  /** @package The network is another one, or was away: the connection may be dead. */
  _renew() {
    this._connection.renew();
  }

  /** @package The page is left; it may come back. */
  _rest() {
    this._tellRead();
    this._connection.rest();
  }

  /** @package Somebody looks at the page again. */
  _lookAgain() {
    this._connection.lookAgain();
    this.#list?._lookAgain();
  }
}
