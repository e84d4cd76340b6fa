// One group's messages: live ones below, older ones above as one scrolls, and the texts on their way.
//
// At most MOST messages are in the page while its end is in sight; older ones come back from the
// history. Of those who read further up nothing is moved.

import { make, nameOf, verbatim } from "./dom.js";
import { FastIMError } from "./fastim.js";
import { addTexts, dayOf, label, say, sayTime } from "./language.js";

addTexts({
  en: {
    draftQueued: "Waits for the connection",
    draftSending: "Sending…",
    draftUnsent: "Not sent: {reason}",
    draftRefused: "Refused: {reason}",
    draftLost: "Not sent: the connection broke",
    draftOffline: "Not sent: no connection",
    draftTooLarge: "Not sent: it is too long",
    draftAgain: "Send again",
    draftDiscard: "Discard",
    recall: "Recall",
    recallOf: "Recall: {text}",
    historyBegin: "The beginning of what is kept",
    historyLoading: "Loading older messages…",
    historyFailed: "Older messages could not be loaded.",
    historyRetry: "Try again",
    nothingSaid: "Nobody has said anything yet.",
  },
  zh: {
    draftQueued: "等待连接",
    draftSending: "正在发送…",
    draftUnsent: "未发送：{reason}",
    draftRefused: "被拒绝：{reason}",
    draftLost: "未发送：连接中断",
    draftOffline: "未发送：没有连接",
    draftTooLarge: "未发送：消息过长",
    draftAgain: "重新发送",
    draftDiscard: "丢弃",
    recall: "撤回",
    recallOf: "撤回：{text}",
    historyBegin: "没有更早的消息了",
    historyLoading: "正在加载更早的消息…",
    historyFailed: "无法加载更早的消息。",
    historyRetry: "重试",
    nothingSaid: "还没有人说话。",
  },
});

const PAGE = 50;
/** Messages in the page while its end is in sight, and how many stay when there are more. */
const MOST = 400;
const KEPT = 300;
/** Pixels: the end is in sight; the beginning is near. */
const NEAR_END = 24;
const NEAR_BEGIN = 300;
/** Milliseconds in which one user's messages stand under one name. */
const TOGETHER_MS = 300_000;
const REASONS = {
  "connection lost": "draftLost",
  "no connection": "draftOffline",
  "too large": "draftTooLarge",
};

export class Conversation {
  /** What was typed and not sent, while another group is in sight. */
  unsaid = "";
  /** New messages below what is in sight. */
  unseen = 0;

  /** @type {(error: FastIMError) => void} */
  onFailure = () => {};
  /** @type {(conversation: Conversation, message: object) => void} A live message has come. */
  onHear = () => {};
  /** @type {() => void} `unseen` has changed. */
  onScroll = () => {};

  #user;
  #scroller = null;
  #list = make("ol", "messages");
  #drafts = make("ol", "drafts");
  #top = make("p", "help");
  #rows = new Map(); // by ts, oldest first; values are {message, element}
  #draftRows = new Map();
  #isFollowing = true;
  #isLive = false;
  #isLoading = false;
  #hasAll = false;

  /**
   * @param {import("./fastim.js").Group} group
   * @param {string} user  whose view it is
   */
  constructor(group, user) {
    this.group = group;
    this.#user = user;
    this.element = make("div", "conversation", this.#top, this.#list, this.#drafts);
    group.addEventListener("message", ({ detail }) => this.#add(detail));
    group.addEventListener("greeting", ({ detail }) => this.#agree(detail));
    group.addEventListener("reset", () => this.#reset());
    group.addEventListener("draft", ({ detail }) => this.#showDraft(detail));
  }

  /** Come into sight, in a box that scrolls. */
  enter(scroller) {
    if (this.#scroller === null) {
      this.#scroller = scroller;
      scroller.addEventListener("scroll", () => this.#noticeScroll());
      new ResizeObserver(() => this.#keepPlace()).observe(scroller);
    }
    this.followEnd();
  }

  /** Show the newest message, and those that come. */
  followEnd() {
    this.#isFollowing = true;
    this.#keepPlace();
    this.#noticeScroll();
  }

  send(text) {
    this.group.send(text);
    this.followEnd();
  }

  // --- Messages ---

  get #isShown() {
    return this.#scroller !== null && this.element.isConnected;
  }

  #add(message) {
    const row = this.#makeRow(message);
    this.#rows.set(message.ts, row);
    this.#list.append(row);
    this.#arrange(row);
    if (this.#isLive) this.onHear(this, message);
    if (this.#isFollowing) {
      this.#trim();
      this.#keepPlace();
    } else if (this.#isLive) {
      this.unseen += 1;
      this.onScroll();
    }
  }

  #makeRow(message) {
    const { userId, info, ts } = message;
    const isOwn = userId === this.#user;
    const text = make("p", "text", verbatim("", info, "span"), sayTime(make("time"), ts, "time"));
    const line = make("div", "line", text);
    const row = make("li", isOwn ? "message own" : "message", make("p", "head", nameOf(userId)), line);
    row.message = message;
    if (isOwn) line.prepend(this.#recallButton(row));
    return row;
  }

  #recallButton(row) {
    const button = say(make("button", "recall quiet"), "recall");
    button.type = "button";
    label(button, "recallOf", { text: row.message.info });
    let isAsked = false; // a disabled button would lose the focus
    button.addEventListener("click", async () => {
      if (isAsked) return;
      isAsked = true;
      try {
        await this.group.recall(row.message);
        this.#remove(row);
      } catch (error) {
        isAsked = false;
        if (error.msg === "消息不存在") this.#remove(row);
        this.onFailure(error);
      }
    });
    return button;
  }

  // A day begins, a name is told: what a row shows of these depends on the one before it.
  #arrange(row) {
    if (!row) return;
    const before = row.previousElementSibling?.message;
    const { userId, ts } = row.message;
    const isNewDay = !before || dayOf(before.ts) !== dayOf(ts);
    const isTogether = before?.userId === userId && ts - before.ts < TOGETHER_MS && !isNewDay;
    row.classList.toggle("continued", isTogether);
    row.querySelector(":scope > .day")?.remove();
    if (isNewDay) row.prepend(make("p", "day", sayTime(make("time"), ts, "day")));
  }

  #remove(row) {
    const next = row.nextElementSibling;
    const hadFocus = row.contains(document.activeElement);
    this.#rows.delete(row.message.ts);
    row.remove();
    this.#arrange(next);
    if (hadFocus) this.#scroller.focus();
    this.#showTop();
  }

  // What is known, and is not among the newest messages of now, was recalled meanwhile.
  #agree(list) {
    const times = new Set(list.map(({ ts }) => ts));
    for (const [ts, row] of this.#rows) {
      if ((!list.length || ts >= list[0].ts) && !times.has(ts)) this.#remove(row);
    }
    this.#isLive = true;
    this.#showTop();
    this.#keepPlace();
    void this.#fill();
  }

  #reset() {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#hasAll = false;
    this.#isLive = false;
  }

  #trim() {
    if (this.#rows.size <= MOST) return;
    for (const [ts, row] of this.#rows) {
      if (this.#rows.size <= KEPT) break;
      this.#rows.delete(ts);
      row.remove();
    }
    this.#hasAll = false;
    this.#arrange(this.#list.firstElementChild);
    this.#showTop();
  }

  // --- History ---

  // A screen that messages do not fill cannot be scrolled to ask for more.
  async #fill() {
    while (this.#isShown && this.#scroller.scrollTop < NEAR_BEGIN && (await this.#loadOlder()));
  }

  async #loadOlder() {
    const first = this.#list.firstElementChild;
    if (this.#isLoading || this.#hasAll || !first || !this.#isLive) return false;
    this.#isLoading = true;
    this.#holdPlace(() => this.#showTop());
    let older = [];
    let failure = null;
    try {
      older = await this.group.history(first.message, PAGE);
      this.#hasAll = older.length < PAGE;
    } catch (error) {
      failure = error;
    }
    this.#isLoading = false;
    if (failure && !(failure instanceof FastIMError)) throw failure;
    // What was the first may have gone while the answer was on its way.
    this.#holdPlace(() => {
      if (!failure && this.#list.firstElementChild === first) this.#prepend(older, first);
      this.#showTop(failure !== null);
    });
    return failure === null;
  }

  #prepend(older, first) {
    const rows = older.map((message) => this.#makeRow(message));
    const entries = rows.map((row) => [row.message.ts, row]);
    this.#rows = new Map([...entries, ...this.#rows]);
    this.#list.prepend(...rows);
    for (const row of [...rows, first]) this.#arrange(row);
  }

  #showTop(hasFailed = false) {
    this.#top.replaceChildren();
    delete this.#top.dataset.text;
    if (hasFailed) {
      const retry = say(make("button", "quiet"), "historyRetry");
      retry.type = "button";
      retry.addEventListener("click", () => void this.#fill());
      this.#top.append(say(make("span"), "historyFailed"), " ", retry);
    } else if (this.#isLive && !this.#rows.size) say(this.#top, "nothingSaid");
    else if (this.#isLoading) say(this.#top, "historyLoading");
    else if (this.#hasAll) say(this.#top, "historyBegin");
  }

  // --- Scrolling ---

  #keepPlace() {
    if (this.#isFollowing && this.#isShown) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  // What changes above what is in sight does not move it.
  #holdPlace(change) {
    const below = this.#isShown ? this.#scroller.scrollHeight - this.#scroller.scrollTop : 0;
    change();
    if (this.#isShown) this.#scroller.scrollTop = this.#scroller.scrollHeight - below;
  }

  #noticeScroll() {
    if (!this.#isShown) return;
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.#isFollowing && this.unseen) {
      this.unseen = 0;
      this.onScroll();
    }
    if (scrollTop < NEAR_BEGIN) void this.#fill();
  }

  // --- Texts on their way ---

  #showDraft(draft) {
    const isAtEnd = this.#isFollowing;
    this.#draftRows.get(draft)?.remove();
    this.#draftRows.delete(draft);
    if (draft.state !== "sent") {
      const row = this.#makeDraft(draft);
      this.#draftRows.set(draft, row);
      this.#drafts.append(row);
    }
    if (isAtEnd) this.#keepPlace();
  }

  #makeDraft(draft) {
    const { text, state, reason } = draft;
    const note = make("p", "help");
    if (state === "queued") say(note, "draftQueued");
    else if (state === "sending") say(note, "draftSending");
    else if (state === "refused") say(note, "draftRefused", { reason });
    else say(note, REASONS[reason] ?? "draftUnsent", { reason });
    const under = make("div", "line", note);
    if (state === "unsent") {
      under.append(this.#draftButton("draftAgain", draft, () => this.#sendAgain(draft)));
    }
    if (state === "unsent" || state === "refused") {
      under.append(this.#draftButton("draftDiscard", draft, () => this.group.discard(draft)));
    }
    const line = make("div", "line", make("p", "text", verbatim("", text, "span")));
    return make("li", `message own ${state}`, line, under);
  }

  #draftButton(key, draft, act) {
    const button = say(make("button", "quiet"), key);
    button.type = "button";
    button.addEventListener("click", () => {
      this.#draftRows.get(draft)?.remove();
      this.#draftRows.delete(draft);
      act();
      this.#scroller.focus();
    });
    return button;
  }

  #sendAgain(draft) {
    try {
      this.group.sendAgain(draft);
    } catch (error) {
      this.onFailure(error);
    }
  }
}
