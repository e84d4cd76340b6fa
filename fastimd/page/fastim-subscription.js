// One group on the connection: it is entered again after each break, from where it was left, and all
// who follow it are told what comes, in order.

import { pauseAfter } from "./fastim-pauses.js";

/** From this code on, the end of a subscription asks to subscribe again. */
const AGAIN_CODE = 2500;
/** The error of a connection that is in as many groups as it may, or of a user who is. */
const LIMIT_EXCEEDED = 106;
const REASONS = {
  "server unsubscribe": "put out",
  "limit exceeded": "too many groups",
  "permission denied": "not allowed",
};

/**
 * @typedef {object} Follower
 * @property {(isWhole: boolean) => void} onOpened  it is open; whole: nothing is missing since before
 * @property {(publication: object) => void} onPublication
 * @property {(userId: string, hasCome: boolean) => void} [onComing]
 * @property {(state: "connecting" | "waiting" | "closed", reason?: string, retryAt?: number) => void} onState
 */

export class Subscription {
  isOpen = false;
  /** Why it is not tried any more. */
  reason = "";

  #im;
  #channel;
  /** @type {Set<Follower>} */
  #followers = new Set();
  #isEntering = false;
  #position = null;
  #visit = 0; // which try this is: what an older one asked for is of no interest
  #attempts = 0;
  #pause = null;

  /**
   * @param {import("./fastim.js").FastIM} im
   * @param {string} channel  the group's id
   */
  constructor(im, channel) {
    this.#im = im;
    this.#channel = channel;
  }

  get isFollowed() {
    return this.#followers.size > 0;
  }

  /** Only by those who would rather give it up than have others go without. */
  get isSpare() {
    return [...this.#followers].every(({ isSpare }) => isSpare);
  }

  follow(follower) {
    this.#followers.add(follower);
    if (this.isOpen) follower.onOpened(false);
  }

  unfollow(follower) {
    this.#followers.delete(follower);
  }

  /** Enter the group, if it is not entered or on the way. */
  enter() {
    if (this.isOpen || this.#isEntering) return;
    this.reason = "";
    clearTimeout(this.#pause);
    if (this.#im._connection.state !== "connected") return;
    this.#visit += 1;
    this.#isEntering = true;
    const visit = this.#visit;
    const since = this.#position ? { recover: true, ...this.#position } : {};
    const subscribe = { channel: this.#channel, join_leave: true, ...since };
    this.#each((follower) => follower.onState("connecting"));
    this.#im._connection.request({ subscribe }, (error, reply) => {
      if (visit !== this.#visit) return;
      this.#isEntering = false;
      if (!error) this.#open(reply.subscribe);
      else if (error.code === LIMIT_EXCEEDED && this.#im._makeRoom(this)) this.enter();
      else if (error.isRefusal && !error.isTemporary) this.#end(error.msg);
      else if (this.#im._connection.state === "connected") this.#enterLater();
    });
  }

  /** Leave it; nobody follows it. */
  leave() {
    if (this.isOpen) this.#im._connection.request({ unsubscribe: { channel: this.#channel } }, () => {});
    this.suspend();
  }

  /** The connection is gone. */
  suspend() {
    clearTimeout(this.#pause);
    this.#visit += 1;
    this.isOpen = this.#isEntering = false;
  }

  take({ pub, join, leave, unsubscribe }) {
    if (pub) this.#publish(pub);
    else if (join) this.#each((follower) => follower.onComing?.(join.info.user, true));
    else if (leave) this.#each((follower) => follower.onComing?.(leave.info.user, false));
    else if (unsubscribe) this.#beLeft(unsubscribe);
  }

  #open({ epoch = "", offset = 0, publications = [], recovered = false }) {
    this.isOpen = true;
    this.#attempts = 0;
    this.#position = { epoch, offset: recovered ? this.#position.offset : offset };
    for (const publication of publications) this.#publish(publication);
    this.#each((follower) => follower.onOpened(recovered));
  }

  #publish(publication) {
    const { offset } = publication;
    if (offset) this.#position.offset = Math.max(this.#position.offset, offset);
    this.#each((follower) => follower.onPublication(publication));
  }

  #beLeft({ code, reason }) {
    this.suspend();
    if (code >= AGAIN_CODE) this.#enterLater();
    else this.#end(reason);
  }

  #enterLater() {
    const pause = pauseAfter(this.#attempts);
    this.#attempts += 1;
    this.#pause = setTimeout(() => this.enter(), pause);
    this.#each((follower) => follower.onState("waiting", "", Date.now() + pause));
  }

  #end(msg) {
    this.suspend();
    this.#position = null;
    this.reason = REASONS[msg] ?? msg;
    this.#each((follower) => follower.onState("closed", this.reason));
  }

  #each(act) {
    for (const follower of [...this.#followers]) act(follower);
  }
}
