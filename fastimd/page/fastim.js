// fastim.js: a client of fastimd (and of Fast-IM) in one module, for browsers and whatever else has
// fetch, WebSocket and EventTarget. It depends on nothing; docs/FASTIM_JS.md shows it at work.
//
// Theory of operation: a `Link` keeps one WebSocket open, and opens it again when it breaks. A
// `Group` is the link to one group's chat. It knows the `ts` of the newest message it told, and `ts`
// only grows within a group: so what a new greeting has beyond that is new, what lies between the
// two is fetched over HTTP, and live messages wait until that was told. Nothing is missing, nothing
// comes twice, and everything comes in order.

/**
 * @typedef {object} Message  one message; groupId, userId and ts together name it
 * @property {string} groupId
 * @property {string} userId  its author
 * @property {string} info    the text
 * @property {number} ts      milliseconds since the epoch, by the server; unique within the group
 *
 * @typedef {object} GroupEntry  a line of the group list
 * @property {string} groupId
 * @property {Message | null} newMessage  the newest message, if there is one
 * @property {number} total               how many messages the group has
 *
 * @typedef {object} Draft  a text on its way; the event `draft` tells each change of its state
 * @property {string} text
 * @property {"queued" | "sending" | "sent" | "unsent" | "refused"} state
 * @property {string} reason          why it is unsent or refused, "" else
 * @property {Message | null} message what became of it, once it is sent
 *
 * @typedef {"connecting" | "connected" | "waiting" | "closed"} LinkState
 */

/** Milliseconds: of waiting for an answer over HTTP, and for a socket to open. */
const ANSWER_MS = 15_000;
/** Milliseconds of silence after a text was sent; longer than a daemon holds one (10 s). */
const ECHO_MS = 15_000;
/** Milliseconds of silence after which the history is asked whether the socket misses something. */
const SILENCE_MS = 60_000;
/** Milliseconds that a message may need from the history's sight to the socket. */
const LATE_MS = 3_000;
/** Milliseconds that a text, changed on its way by a hook of the server, is waited for unchanged. */
const CHANGED_MS = 1_000;
/** Milliseconds of the first pause before connecting again, and of the longest. */
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
/** Milliseconds after which a connection counts as sound, and pauses begin anew. */
const SOUND_MS = 5_000;
const TICK_MS = 1_000;
/** Milliseconds for which a text may wait for a connection. */
const QUEUE_MS = 60_000;
/** Texts that may wait for a connection. */
const QUEUE_LENGTH = 32;
/** Messages asked for at once to close a gap, and the most that are fetched so. */
const PAGE = 100;
const MOST_MISSED = 2_000;

/** What `joinGroup` answers to who is a member. */
const WAS_MEMBER = "操作失败";
/** The close code after which connecting again by itself would be wrong. */
const FINAL_CODE = 1008;
const CLOSED_HERE = "closed by the client";

/**
 * What went wrong: `code` is the server's (100, 400, 440, 500, 503 …, see docs/PROTOCOL.md), or
 * `FastIMError.NO_ANSWER`, or `FastIMError.NOT_ACCEPTED` for what this library itself refuses.
 */
export class FastIMError extends Error {
  static NO_ANSWER = 0;
  static NOT_ACCEPTED = 1;

  /**
   * @param {number} code
   * @param {string} msg  the reason, in the server's words if they are the server's
   */
  constructor(code, msg) {
    super(`${code}: ${msg}`);
    this.name = "FastIMError";
    this.code = code;
    this.msg = msg;
  }
}

/**
 * A user at a server.
 *
 * Event `login`: the server no longer takes the token. Links that ended for that begin again after
 * the next `login`.
 */
export class FastIM extends EventTarget {
  #links = new Set();
  #groups = new Map();
  #list = null;

  /**
   * @param {object} options
   * @param {string} options.url      where the server is, http(s): or ws(s):, a path may follow
   * @param {string} options.userId
   * @param {string} [options.token]  one that the user has; else `login` gets one
   * @throws {FastIMError} the url or the user id is none
   */
  constructor({ url, userId, token = "" }) {
    super();
    this.url = baseOf(url);
    this.userId = idOf("userId", userId);
    this.token = token;
  }

  /**
   * Get a token, and keep it in memory only. An older token of the user ends.
   * @param {string} password
   * @returns {Promise<unknown>} what the server says of the user
   * @throws {FastIMError}
   */
  async login(password) {
    const { msg, data } = await this.#post("/user/login", { userId: this.userId, password });
    this.token = msg;
    for (const link of this.#links) if (link.reason === "login required") link.reconnect();
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
    if (!this.#groups.has(id)) this.#groups.set(id, this.#open(new Group(this, id)));
    return this.#groups.get(id);
  }

  /**
   * Open the live list of the user's groups, or get the one that is open.
   * @returns {GroupList}
   */
  watchGroups() {
    this.#list ??= this.#open(new GroupList(this));
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
    const { code, msg } = await this.#post("/user/joinGroup", { groupId }, [200, 100]);
    if (code === 100 && msg !== WAS_MEMBER) throw new FastIMError(code, msg);
    return code === 200;
  }

  /**
   * The ids of the user's groups, in no order.
   * @returns {Promise<string[]>}
   * @throws {FastIMError}
   */
  async listGroup() {
    return (await this.#post("/user/listGroup", {})).data.map(String);
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
    return (await this.#post("/group/listMessage", range)).data.map(parseMessage);
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
    return (await this.#post("/group/listOldMessage", place)).data.map(parseMessage);
  }

  /**
   * Delete a message of the user's own, for everybody; the others are not told while connected.
   * @param {Message} message
   * @throws {FastIMError} code 100: it is too old, or it is not there
   */
  async recall({ groupId, ts }) {
    await this.#post("/group/delMessage", { groupId, ts });
  }

  #open(link) {
    if (!this.#links.size) watchBrowser(this);
    this.#links.add(link);
    link.reconnect();
    return link;
  }

  /** @package A link was closed by its owner. */
  _forget(link) {
    this.#links.delete(link);
    if (link === this.#list) this.#list = null;
    else this.#groups.delete(link.groupId);
    if (!this.#links.size) unwatchBrowser(this);
  }

  /** @package The server does not take the token. */
  _askLogin() {
    this.dispatchEvent(new CustomEvent("login"));
  }

  /** @package The network is another one, or was away: whatever is open may be dead. */
  _renewAll() {
    for (const link of this.#links) link._renew();
  }

  /** @package Somebody looks at the page again. */
  _lookAgain() {
    for (const link of this.#links) link._lookAgain();
  }

  async #post(path, parameters, expected = [200]) {
    const headers = this.token ? { userId: asHeader(this.userId), token: asHeader(this.token) } : {};
    const request = {
      method: "POST",
      headers: path === "/user/login" ? {} : headers,
      body: new URLSearchParams(parameters),
      credentials: "omit",
      signal: AbortSignal.timeout(ANSWER_MS),
    };
    let answer;
    try {
      answer = await (await fetch(this.url + path, request)).json();
    } catch (error) {
      throw new FastIMError(FastIMError.NO_ANSWER, `no answer from ${this.url}: ${error.message}`);
    }
    if (expected.includes(answer?.code)) return answer;
    if (answer?.code === 440) this._askLogin();
    throw new FastIMError(Number(answer?.code ?? 0), String(answer?.msg ?? "not an answer of fastimd"));
  }
}

/**
 * One WebSocket that is opened again whenever it breaks: after the pause that the server asked for,
 * else after a random one from a range that doubles, and at once when the browser is online again
 * or somebody looks at the page again.
 *
 * Event `state`: `state` has changed. `retryAt` is when it will be tried again, in milliseconds since
 * the epoch, while "waiting". `reason` is why it is "closed", until `reconnect`: "login required",
 * "kicked", "flood", "not a member", "too many groups", "not allowed" or a hook's own words.
 */
class Link extends EventTarget {
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
    this.#deadline = setTimeout(() => this._renewAfterPause(), ANSWER_MS);
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
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#attempts);
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

/**
 * The live list of the user's groups.
 *
 * Event `groups`, detail `GroupEntry[]`: the whole list, most recently active first; groups without
 * messages last.
 */
export class GroupList extends Link {
  #pushes = 0;

  /** @param {FastIM} im */
  constructor(im) {
    super(im, "list");
  }

  _onOpen() {
    this._becomeReady();
  }

  /** @package The list costs one frame, and a new connection is the only proof of life. */
  _lookAgain() {
    if (this.state !== "connected" || Date.now() - this._heardAt > SILENCE_MS) this._renew();
  }

  async _onText(text) {
    this.#pushes += 1;
    const push = this.#pushes;
    const connection = this._connection;
    const entries = parse(text);
    if (!Array.isArray(entries)) return;
    const [named, unnamed] = split(entries, ({ newMessage }) => newMessage);
    const list = named.map(({ newMessage, total }) => {
      const message = asMessage(newMessage);
      return { groupId: message.groupId, newMessage: message, total };
    });
    // An entry without a message does not say its group: the ids that are left over do.
    const rest = unnamed.length ? await this.#otherGroups(list) : [];
    if (push !== this.#pushes || connection !== this._connection) return;
    list.push(...rest.map((groupId) => ({ groupId, newMessage: null, total: 0 })));
    this.dispatchEvent(new CustomEvent("groups", { detail: list }));
  }

  async #otherGroups(list) {
    const named = new Set(list.map(({ groupId }) => groupId));
    try {
      return (await this._im.listGroup()).filter((groupId) => !named.has(groupId)).sort();
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      return []; // the next push asks again
    }
  }
}

/**
 * A group's chat.
 *
 * Event `message`, detail `Message`: the next message of the group, the user's own too; each once,
 * in the order of `ts`. Event `greeting`, detail `Message[]`: the newest messages as they are now, at
 * each connection and after their `message` events; what is known, is not older than they are and is
 * not among them was recalled. Event `reset`: so much was missed that it is not fetched; what was known is no
 * longer followed without a gap by what comes. Event `draft`, detail `Draft`: a text of the user's has
 * changed its state. Event `refused`, detail `{code, msg, text}`: the server refused a text; 403: for
 * good, 503: it may be tried again.
 */
export class Group extends Link {
  /** @type {Draft[]} Texts that are neither sent nor refused, oldest first. */
  drafts = [];

  #newest = 0;
  #greeted = false;
  // Where a server greets with no messages: how many the group had when it greeted first, and the `ts`
  // of the last of them, null until it is known. What comes after that is not to be missed.
  #firstTotal = 0;
  #firstTs = null;
  #held = null; // live messages that wait for the gap before them to be closed
  #checkedAt = 0;

  /**
   * @param {FastIM} im
   * @param {string} groupId
   */
  constructor(im, groupId) {
    super(im, `chat/${encodeURIComponent(groupId)}`);
    this.groupId = groupId;
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
    if (typeof text !== "string" || !text) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "an empty text, or none");
    }
    if (this.drafts.filter(({ state }) => state === "queued").length >= QUEUE_LENGTH) {
      throw new FastIMError(FastIMError.NOT_ACCEPTED, "too many texts wait for the connection");
    }
    const draft = { text: text.toWellFormed?.() ?? text, state: "queued", reason: "", message: null };
    this.drafts.push(Object.defineProperty(draft, "since", { value: Date.now(), writable: true }));
    if (this.state === "connected") this.#transmitDraft(draft);
    else if (this.state === "closed") this.#change(draft, "unsent", this.reason);
    else this.#tell(draft);
    return draft;
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
    this.drafts = this.drafts.filter((each) => each !== draft);
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
    else if (this.#silentFor() > LATE_MS) void this.#check();
  }

  async _onText(text) {
    const value = parse(text);
    if (Array.isArray(value?.list)) await this.#greet(value.list.map(asMessage), value.total);
    else if (value && "info" in value) this.#receive(asMessage(value));
    else if (value && "code" in value) this.#refuse(value);
  }

  _onBreak(code, reason) {
    this.#held = null;
    const most = code === 1009 ? bytesAllowed(reason) : Infinity;
    // Their fate is told when the messages since are known.
    for (const draft of this.drafts.filter(isUnderWay)) {
      draft.reason = bytesOf(draft.text) > most ? reason || "too large" : "connection lost";
    }
  }

  _onEnd(reason) {
    for (const draft of this.drafts) {
      if (draft.state !== "unsent") this.#change(draft, "unsent", draft.reason || reason);
    }
  }

  async #greet(list, total) {
    const connection = this._connection;
    this.#held = [];
    const missed = this.#greeted ? await this.#findMissed(list, total, connection) : [];
    if (this._connection !== connection) return;
    if (!this.#greeted) this.#firstTotal = total;
    this.#greeted = true;
    for (const message of [...missed, ...list]) this.#deliver(message);
    this.#emit("greeting", list);
    const held = this.#held ?? [];
    this.#held = null;
    this.#giveUpLost(connection);
    for (const message of held) this.#receive(message);
    if (this._connection !== connection) return; // who listens may have closed it
    this._becomeReady();
    for (const draft of this.drafts) if (draft.state === "queued") this.#transmitDraft(draft);
    if (!list.length) void this.#findFirst(connection);
  }

  async #findMissed(list, total, connection) {
    if (list.length) {
      const gap = list.length < total && list[0].ts > this.#known;
      return gap ? this.#fetchMissed(list[0], connection) : [];
    }
    // The server greets with no messages: then the history has what was missed, if it may be read.
    if (!total || !this._im.token) return [];
    await this.#findFirst(connection);
    return this.#fetchMissed(null, connection);
  }

  // Not waited for when it greets first: no message depends on it, but for what is missed later.
  async #findFirst(connection) {
    if (this.#firstTs !== null || this.#newest || !this._im.token) return;
    const last = this.#firstTotal - 1;
    const ask = () => this._im.listMessage(this.groupId, last, last);
    const [message] = last < 0 ? [] : await this.#askHistory(ask, connection);
    if (this._connection === connection) this.#firstTs = message?.ts ?? 0;
  }

  // The `ts` up to which nothing is missing.
  get #known() {
    return Math.max(this.#newest, this.#firstTs ?? 0);
  }

  // Back from the greeting, or from the end of the history, page by page, until it joins what is known.
  async #fetchMissed(oldest, connection) {
    let missed = [];
    let first = oldest;
    while (missed.length < MOST_MISSED) {
      const ask = () => first
        ? this._im.listOldMessage(first, PAGE)
        : this._im.listMessage(this.groupId, -PAGE, -1);
      const page = await this.#askHistory(ask, connection);
      const fresh = page.filter(({ ts }) => ts > this.#known);
      missed = [...fresh, ...missed];
      if (!page.length || fresh.length < page.length) return missed;
      first = page[0];
    }
    // What is not shown may still be the user's own.
    for (const message of missed) this.#settle(message);
    if (!oldest) this.#firstTs = missed.at(-1).ts; // no greeting will say it
    this.#emit("reset");
    return [];
  }

  // What the history answers; nothing when the connection is another one meanwhile.
  async #askHistory(ask, connection) {
    for (let attempt = 0; this._connection === connection; attempt += 1) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof FastIMError)) throw error;
        if (error.code === 440) this._endFor("login required");
        else await sleep(Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt));
      }
    }
    return [];
  }

  #receive(message) {
    if (this.#held) this.#held.push(message);
    else if (this.#deliver(message)) this.#noticeChanged(message);
  }

  #deliver(message) {
    if (message.ts <= this.#newest) return false;
    this.#newest = message.ts;
    const isSettled = this.#settle(message);
    this.#emit("message", message);
    return !isSettled;
  }

  // A message of the user's own is the draft with its text that was sent first; one that was given
  // up, if no other has this text.
  #settle(message) {
    if (message.userId !== this._im.userId) return true;
    const same = this.drafts.filter(({ text, state }) => text === message.info && state !== "queued");
    const draft = same.find(isUnderWay) ?? same[0];
    if (draft) this.#end(draft, "sent", "", message);
    return draft !== undefined;
  }

  // An own message that no draft has the text of: from another device, or a draft that a hook of the
  // server has changed. If that draft's own text does not come soon after, it was changed.
  #noticeChanged(message) {
    const connection = this._connection;
    const heardAt = Date.now();
    setTimeout(() => {
      if (this._connection !== connection) return;
      const isIt = (draft) => isUnderWay(draft) && draft.since <= heardAt;
      const draft = this.drafts.find(isIt);
      if (draft) this.#end(draft, "sent", "", message);
    }, CHANGED_MS);
  }

  #refuse({ code, msg, data }) {
    const refusal = { code: Number(code), msg: String(msg), text: String(data) };
    const draft = this.drafts.find((each) => isUnderWay(each) && each.text === refusal.text);
    if (draft && refusal.code === 503) this.#change(draft, "unsent", refusal.msg);
    else if (draft) this.#end(draft, "refused", refusal.msg, null);
    this.#emit("refused", refusal);
  }

  #transmitDraft(draft) {
    this._transmit(draft.text);
    draft.since = Date.now();
    this.#change(draft, "sending");
  }

  // All messages since are known, and these are not among them; what was still on its way gets a
  // moment. (One may come even later, when a server held it for a Redis that was away: then it is
  // found, and is "sent".)
  #giveUpLost(connection) {
    const lost = this.drafts.filter(isLost);
    setTimeout(() => {
      if (this._connection !== connection) return;
      for (const draft of lost) if (isLost(draft)) this.#change(draft, "unsent", draft.reason);
    }, LATE_MS);
  }

  #change(draft, state, reason = "") {
    draft.state = state;
    draft.reason = reason;
    this.#tell(draft);
  }

  #end(draft, state, reason, message) {
    this.discard(draft);
    draft.message = message;
    this.#change(draft, state, reason);
  }

  #tell(draft) {
    this.#emit("draft", draft);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  _tick() {
    const now = Date.now();
    for (const draft of this.drafts) {
      const isOld = draft.state === "queued" && now - draft.since > QUEUE_MS;
      if (isOld) this.#change(draft, "unsent", "no connection");
    }
    if (this.state !== "connected") return;
    const waits = this.drafts.some((draft) => isUnderWay(draft) && now - draft.since > ECHO_MS);
    if (waits && now - this._heardAt > ECHO_MS) this._im._renewAll();
    else if (this.#silentFor() > SILENCE_MS && isSeen()) void this.#check();
  }

  // Milliseconds since something was heard, or asked.
  #silentFor() {
    return Date.now() - Math.max(this._heardAt, this.#checkedAt);
  }

  // No script can ping a WebSocket. But the history knows what the socket should have brought.
  async #check() {
    const connection = this._connection;
    this.#checkedAt = Date.now();
    try {
      const [newest] = await this._im.listMessage(this.groupId, -1, -1);
      if (!newest || newest.ts <= this.#known) return;
      await sleep(LATE_MS);
      if (newest.ts <= this.#known) return;
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      if (error.code !== FastIMError.NO_ANSWER) return;
    }
    if (this._connection === connection) this._im._renewAll();
  }
}

// --- The browser ---

const watched = new Set();

const onOnline = () => watched.forEach((im) => im._renewAll());
const onLook = () => isSeen() && watched.forEach((im) => im._lookAgain());

function watchBrowser(im) {
  if (!watched.size) {
    globalThis.addEventListener?.("online", onOnline);
    globalThis.document?.addEventListener("visibilitychange", onLook);
  }
  watched.add(im);
}

function unwatchBrowser(im) {
  watched.delete(im);
  if (watched.size) return;
  globalThis.removeEventListener?.("online", onOnline);
  globalThis.document?.removeEventListener("visibilitychange", onLook);
}

function isSeen() {
  return globalThis.document?.visibilityState !== "hidden";
}

// --- Drafts ---

function isUnderWay({ state, reason }) {
  return state === "sending" && !reason;
}

function isLost({ state, reason }) {
  return state === "sending" && reason !== "";
}

// --- Values ---

function baseOf(url) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    throw new FastIMError(FastIMError.NOT_ACCEPTED, `not a URL: ${url}`);
  }
  const protocol = parsed.protocol.replace(/^ws/, "http");
  if (!/^https?:$/.test(protocol)) {
    throw new FastIMError(FastIMError.NOT_ACCEPTED, `neither http(s): nor ws(s): ${url}`);
  }
  return `${protocol}//${parsed.host}${parsed.pathname}`.replace(/\/+$/, "");
}

// As the server judges ids, so far as a browser can: whether a handshake was refused for one it never
// learns. "." and ".." cannot stand in a path.
function idOf(name, value) {
  const id = typeof value === "number" ? String(value) : value;
  const isId = typeof id === "string" && id.trim() === id && /^.{1,128}$/u.test(id) &&
    !/(?! )[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Z}\ufffd]/u.test(id) && !/^\.\.?$/.test(id);
  if (isId) return id;
  const rule = `${name} must be 1 to 128 printable characters, no spaces at the ends, no "." or ".."`;
  throw new FastIMError(FastIMError.NOT_ACCEPTED, rule);
}

// What a close with 1009 says.
function bytesAllowed(reason) {
  return Number(/^more than (\d+) bytes$/.exec(reason)?.[1] ?? 0);
}

function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

// Headers are bytes; the server reads UTF-8.
function asHeader(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function parseMessage(text) {
  return asMessage(JSON.parse(text));
}

// Fast-IM wrote some ids as numbers.
function asMessage({ groupId, userId, info, ts }) {
  return { groupId: String(groupId), userId: String(userId), info: String(info), ts: Number(ts) };
}

function pauseAskedFor(reason) {
  const found = /^restart (\d{1,6})$/.exec(reason);
  return found ? Number(found[1]) : null;
}

function split(values, isFirst) {
  return [values.filter((value) => isFirst(value)), values.filter((value) => !isFirst(value))];
}

function sleep(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
