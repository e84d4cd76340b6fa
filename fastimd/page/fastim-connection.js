// A user's one socket, which speaks Centrifugo's client protocol in JSON, as docs/LIVE.md has it. It is
// opened again when it breaks.

import { FastIMError, inLanguage } from "./fastim-errors.js";
import { pauseAfter } from "./fastim-pauses.js";
import { parse } from "./fastim-values.js";

/** Milliseconds of waiting for a socket to open and to let the user in. */
const OPEN_MS = 15_000;
/** Milliseconds of waiting for an answer; longer than a daemon waits for Redis (4 s). */
const ANSWER_MS = 10_000;
/** Milliseconds after which a connection counts as sound, and pauses begin anew. */
const SOUND_MS = 5_000;
/** Milliseconds that a ping of the server may be late. */
const LATE_MS = 10_000;
/** Milliseconds for an answer when somebody looks at the page again. */
const LOOK_MS = 3_000;
/** Sockets that did not open, where none ever has, after which it is told. */
const NEVER_OPENED = 2;

/** From this close code on it is of no use to connect again by itself. */
const FINAL_CODE = 3500;
const REASONS = {
  "invalid token": "login required",
  "force disconnect": "kicked",
};

/** The error of a command whose connection broke before the answer. */
export const BROKEN = "connection lost";
/** The error of a command that was not answered. */
export const SILENT = "no answer";

export class Connection {
  /** @type {import("./fastim-link.js").LinkState} */
  state = "closed";
  reason = "";
  /** @type {number | null} */
  retryAt = null;

  /** @type {(change: "state" | "break", reason?: string) => void} */
  onChange = () => {};
  /** @type {(push: object) => void} */
  onPush = () => {};

  #im;
  #socket = null;
  #asked = new Map(); // by the number of the command; values are {done, timer}
  #number = 0;
  #deadline = null;
  #pause = null;
  #attempts = 0;
  #unopened = 0;
  #letInAt = 0;
  #heardAt = 0;
  #silence = Infinity; // milliseconds after which it counts as dead
  #answersPings = false;

  constructor(im) {
    this.#im = im;
  }

  /** Connect now, unless it is connected or connects. */
  open() {
    if (this.state === "connecting" || this.state === "connected") return;
    clearTimeout(this.#pause);
    this.#connect();
  }

  /** Close for good. */
  close() {
    if (this.state !== "closed") this.#stop("");
  }

  /** Leave a connection that may be dead for a new one, or end a pause. */
  renew() {
    if (this.state === "closed") return;
    this.#drop(BROKEN);
    this.#connect();
  }

  /** Have no connection until it is renewed. */
  rest() {
    if (this.state === "closed") return;
    this.#drop(BROKEN);
    this.#show("waiting");
  }

  /** Ask whether it is alive, if that is not certain. */
  lookAgain() {
    if (this.state === "waiting") this.open();
    else if (this.state === "connected") this.request({ ping: {} }, () => {}, LOOK_MS);
  }

  /**
   * Give a command.
   * @param {object} command  without its number
   * @param {(error: FastIMError | null, reply: object | null) => void} done  called in the order of what
   *     comes, before anything that comes behind the answer
   */
  request(command, done, patience = ANSWER_MS) {
    if (this.state !== "connected" && !command.connect) {
      done(this.#failure(BROKEN), null);
      return;
    }
    this.#number += 1;
    const number = this.#number;
    const askedAt = Date.now();
    const timer = setTimeout(() => {
      this.#asked.delete(number);
      done(this.#failure(SILENT), null);
      // A server that says nothing at all is not there; one that pings may wait for its Redis.
      if (this.#heardAt <= askedAt) this.#renewAfterPause();
    }, patience);
    this.#asked.set(number, { done, timer });
    this.#socket.send(JSON.stringify({ id: number, ...command }));
  }

  /**
   * The same as a promise.
   * @returns {Promise<object>}
   * @throws {FastIMError}
   */
  ask(command) {
    return new Promise((resolve, reject) => {
      this.request(command, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
  }

  get #isUnheard() {
    return this.#unopened >= NEVER_OPENED;
  }

  #connect() {
    const socket = new WebSocket(`${this.#im.url.replace(/^http/, "ws")}/connection/websocket`);
    this.#socket = socket;
    this.#letInAt = 0;
    this.#unopened += 1;
    this.#show("connecting");
    this.#deadline = setTimeout(() => this.#renewAfterPause(), OPEN_MS);
    const ifCurrent = (act) => (event) => this.#socket === socket && act(event);
    socket.addEventListener("open", ifCurrent(() => this.#enter()));
    socket.addEventListener("message", ifCurrent(({ data }) => this.#take(data)));
    socket.addEventListener("close", ifCurrent(({ code, reason }) => {
      if (code >= FINAL_CODE) this.#stop(REASONS[reason] ?? (reason || "closed by the server"));
      else this.#renewAfterPause(code === 1009 ? reason : BROKEN);
    }));
  }

  #enter() {
    this.#unopened = -Infinity;
    const { userId, token } = this.#im;
    const connect = { token, data: { userId }, name: "fastim.js" };
    this.request({ connect }, (error, reply) => {
      if (!error) this.#beLetIn(reply.connect);
      else if (error.isRefusal && !error.isTemporary) this.#stop(error.msg);
      else if (error.isRefusal) this.#renewAfterPause();
    });
  }

  #beLetIn({ ping = 0, pong = false }) {
    clearTimeout(this.#deadline);
    this.#letInAt = Date.now();
    this.#silence = ping ? ping * 1000 + LATE_MS : Infinity;
    this.#answersPings = pong;
    this.#watch();
    this.#show("connected");
  }

  // A frame has a reply or a push a line; one without anything in it is a ping.
  #take(frame) {
    const socket = this.#socket;
    this.#heardAt = Date.now();
    for (const line of String(frame).split("\n")) {
      const said = parse(line);
      if (!said) continue;
      if (said.id) this.#answer(said);
      else if (said.push) this.onPush(said.push);
      else if (this.#answersPings) socket.send("{}");
      if (this.#socket !== socket) return; // who was told may have closed it
    }
    if (this.#letInAt) this.#watch();
  }

  #answer({ id, error, ...reply }) {
    const asked = this.#asked.get(id);
    if (!asked) return;
    this.#asked.delete(id);
    clearTimeout(asked.timer);
    asked.done(error ? this.#refusal(error) : null, error ? null : reply);
  }

  #watch() {
    clearTimeout(this.#deadline);
    if (this.#silence === Infinity) return;
    this.#deadline = setTimeout(() => this.#renewAfterPause(), this.#silence);
  }

  #renewAfterPause(why = BROKEN) {
    if (this.#letInAt && Date.now() - this.#letInAt > SOUND_MS) this.#attempts = 0;
    this.#drop(why);
    const pause = pauseAfter(this.#attempts);
    this.#attempts += 1;
    this.#pause = setTimeout(() => this.open(), pause);
    this.#show("waiting", this.#isUnheard ? "no socket" : "", Date.now() + pause);
  }

  #stop(reason) {
    this.#drop(BROKEN);
    this.#attempts = 0;
    this.#show("closed", reason);
    if (reason === "login required") this.#im._askLogin();
  }

  // A socket on a dead network says that it has closed only minutes later: it is not waited for.
  #drop(why) {
    clearTimeout(this.#deadline);
    clearTimeout(this.#pause);
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.close();
    this.state = "waiting"; // nothing is sent by those who are told now
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const { done, timer } of asked) {
      clearTimeout(timer);
      done(this.#failure(BROKEN), null);
    }
    this.onChange("break", why);
  }

  #show(state, reason = "", retryAt = null) {
    this.state = state;
    this.reason = reason;
    this.retryAt = retryAt;
    this.onChange("state");
  }

  #failure(msg) {
    return new FastIMError(FastIMError.NO_ANSWER, msg);
  }

  #refusal({ code, message, temporary = false }) {
    const error = new FastIMError(code, message, inLanguage(message, this.#im.language));
    error.isTemporary = temporary;
    return error;
  }
}
