// One group's messages: live ones below, older ones above as one scrolls; drafts.js has the texts on
// their way.
//
// At most MOST messages are in the page while its end is in sight; older ones come back from the
// history. Of those who read further up nothing is moved.

import { make, verbatim } from "./dom.js";
import { DraftsView } from "./drafts.js";
import { FastIMError } from "./fastim.js";
import { addTexts, authorOf, dayOf, hush, label, say, sayTime, sayTimes } from "./language.js";

addTexts({
  en: {
    recall: "Recall",
    recallOf: "Recall: {text}",
    moreOf: "Report or moderate: {text}",
    historyBegin: "The beginning of what is kept",
    historyLoading: "Loading older messages…",
    historyFailed: "Older messages could not be loaded.",
    historyRetry: "Try again",
    nothingSaid: "Nobody has said anything yet.",
    leftOut: "{count} messages were left out: too much was said at once.",
    leftOutOne: "1 message was left out: too much was said at once.",
  },
  zh: {
    recall: "撤回",
    recallOf: "撤回：{text}",
    moreOf: "举报或管理：{text}",
    historyBegin: "没有更早的消息了",
    historyLoading: "正在加载更早的消息…",
    historyFailed: "无法加载更早的消息。",
    historyRetry: "重试",
    nothingSaid: "还没有人说话。",
    leftOut: "消息过多，有 {count} 条未显示。",
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
/** Characters of a message in the name of its button. */
const NAME_LENGTH = 80;

export class Conversation {
  /** What was typed and not sent, while another group is in sight. */
  unsaid = "";
  /** New messages below what is in sight. */
  unseen = 0;

  /** @type {(error: FastIMError) => void} */
  onFailure = () => {};
  /** @type {(conversation: Conversation, message: object) => void} A live message has come. */
  onHear = () => {};
  /** @type {(message: object) => void} Somebody wants to do something about a message. */
  onMore = () => {};
  /** @type {() => void} `unseen` has changed. */
  onScroll = () => {};

  #user;
  #scroller;
  #list = make("ol", "messages");
  #leftOut = null; // the note of messages that were left out, until the next one comes
  #countLeftOut = 0;
  #drafts;
  #top = make("p", "help");
  #rows = new Map(); // by ts, oldest first; values are {message, element}
  #isFollowing = true;
  #isLive = false;
  #isLoading = false;
  #hasAll = false;
  #hasFailed = false; // then a person asks again, not the scrolling
  #tooOld = 0; // the newest `ts` that is known to be too old for a recall

  /**
   * @param {import("./fastim.js").Group} group
   * @param {string} user         whose view it is
   * @param {Element} scroller  the box that scrolls, with whichever conversation is in sight
   */
  constructor(group, user, scroller) {
    this.group = group;
    this.#user = user;
    this.#scroller = scroller;
    this.#drafts = new DraftsView(group);
    this.#drafts.onFailure = (error) => this.onFailure(error);
    this.#drafts.onUse = () => this.#scroller.focus();
    this.element = make("div", "conversation", this.#top, this.#list, this.#drafts.element);
    group.addEventListener("message", ({ detail }) => this.#add(detail));
    group.addEventListener("greeting", ({ detail }) => this.#agree(detail));
    group.addEventListener("reset", () => this.#reset());
    group.addEventListener("removed", ({ detail }) => this.#removeAll(detail));
    group.addEventListener("gap", ({ detail }) => this.#noteLeftOut(detail.missed));
    group.addEventListener("draft", ({ detail }) => this.#showDraft(detail));
  }

  /** Come into sight. */
  enter() {
    this.#scroller.replaceChildren(this.element);
    this.followEnd();
  }

  /** Show the newest message, and those that come. */
  followEnd() {
    this.#isFollowing = true;
    this.noticeSize();
  }

  /** The box has another size, or is there again. */
  noticeSize() {
    this.#keepPlace();
    this.noticeScroll();
  }

  send(text) {
    this.group.send(text);
    this.followEnd();
  }

  #showDraft(draft) {
    this.#drafts.show(draft);
    this.#keepPlace();
  }

  // --- Messages ---

  get #isShown() {
    return this.element.isConnected && this.#scroller.clientHeight > 0;
  }

  #add(message) {
    const row = this.#makeRow(message);
    this.#rows.set(message.ts, row);
    this.#list.append(row);
    if (this.#leftOut) row.prepend(this.#leftOut);
    this.#leftOut = null;
    this.#countLeftOut = 0;
    if (this.#arrange(row)) sayTimes(this.#list); // "Today" is another day now
    if (this.#isLive) this.onHear(this, message);
    if (this.#isLive && this.#rows.size === 1) {
      this.#showTop(); // it is not true any more that nobody has said anything
      void this.#fill();
    }
    if (this.#isFollowing) {
      this.#trim();
      this.#keepPlace();
      this.noticeRead();
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
    const row = make("li", isOwn ? "message own" : "message", make("p", "head", authorOf(userId)), line);
    row.message = message;
    if (isOwn && ts > this.#tooOld) line.prepend(this.#recallButton(row));
    if (!isOwn) line.append(this.#moreButton(row));
    return row;
  }

  #moreButton({ message }) {
    const button = make("button", "more quiet", "⋯");
    button.type = "button";
    label(button, "moreOf", { text: message.info.slice(0, NAME_LENGTH) });
    button.addEventListener("click", () => this.onMore(message));
    return button;
  }

  #recallButton(row) {
    const button = say(make("button", "recall quiet"), "recall");
    button.type = "button";
    label(button, "recallOf", { text: row.message.info.slice(0, NAME_LENGTH) });
    let isAsked = false; // a disabled button would lose the focus
    button.addEventListener("click", async () => {
      if (isAsked) return;
      isAsked = true;
      try {
        await this.group.recall(row.message);
        this.#remove(row);
      } catch (error) {
        isAsked = false;
        if (error.msg === "no such message") this.#remove(row);
        if (error.msg === "too old to be recalled") this.#noticeTooOld(row.message.ts);
        this.onFailure(error);
      }
    });
    return button;
  }

  // What is older still cannot be recalled either.
  #noticeTooOld(limit) {
    this.#tooOld = limit;
    for (const [ts, row] of this.#rows) if (ts <= limit) row.querySelector(".recall")?.remove();
    this.#scroller.focus();
  }

  // A day begins, a name is told: what a row shows of these depends on the one before it. Gives whether
  // a day begins.
  #arrange(row) {
    if (!row) return false;
    const before = row.previousElementSibling?.message;
    const { userId, ts } = row.message;
    const isNewDay = !before || dayOf(before.ts) !== dayOf(ts);
    const isTogether = before?.userId === userId && ts - before.ts < TOGETHER_MS && !isNewDay;
    row.classList.toggle("continued", isTogether);
    row.querySelector(":scope > .day")?.remove();
    if (isNewDay) row.prepend(make("p", "day", sayTime(make("time"), ts, "day")));
    return isNewDay;
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

  #removeAll({ first, last, userId }) {
    for (const [ts, row] of [...this.#rows]) {
      const isMeant = ts >= first && ts <= last && (userId === null || userId === row.message.userId);
      if (isMeant) this.#holdPlace(() => this.#remove(row));
    }
  }

  #noteLeftOut(missed) {
    this.#countLeftOut += missed;
    this.#leftOut ??= make("p", "help gap");
    say(this.#leftOut, "leftOut", { count: this.#countLeftOut });
    this.#list.after(this.#leftOut);
    this.#keepPlace();
  }

  // What is known, and is not among the newest messages of now, was recalled meanwhile.
  #agree(list) {
    const times = new Set(list.map(({ ts }) => ts));
    for (const [ts, row] of this.#rows) {
      if ((!list.length || ts >= list[0].ts) && !times.has(ts)) this.#remove(row);
    }
    this.#isLive = true;
    this.#hasFailed = false;
    this.#showTop();
    this.#keepPlace();
    this.noticeRead();
    void this.#fill();
  }

  #reset() {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#hasAll = false;
    this.#isLive = false;
    this.unseen = 0;
    this.onScroll();
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
    const isIdle = this.#isLive && !this.#isLoading && !this.#hasFailed && !this.#hasAll;
    if (!isIdle || !first) return false;
    this.#isLoading = true;
    this.#holdPlace(() => this.#showTop());
    const older = await this.#askOlder(first.message);
    this.#isLoading = false;
    // What was the first may have gone while the answer was on its way.
    this.#holdPlace(() => {
      if (this.#list.firstElementChild === first) this.#prepend(older, first);
      this.#showTop();
    });
    return !this.#hasFailed;
  }

  async #askOlder(message) {
    try {
      const older = await this.group.history(message, PAGE);
      this.#hasAll = older.length < PAGE;
      return older;
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      this.#hasFailed = true;
      return [];
    }
  }

  #prepend(older, first) {
    const rows = older.map((message) => this.#makeRow(message));
    const entries = rows.map((row) => [row.message.ts, row]);
    this.#rows = new Map([...entries, ...this.#rows]);
    this.#list.prepend(...rows);
    for (const row of [...rows, first]) this.#arrange(row);
  }

  #showTop() {
    hush(this.#top);
    if (this.#hasFailed) {
      const retry = say(make("button", "quiet"), "historyRetry");
      retry.type = "button";
      retry.addEventListener("click", () => this.#retry());
      this.#top.append(say(make("span"), "historyFailed"), " ", retry);
    } else if (this.#isLive && !this.#rows.size) say(this.#top, "nothingSaid");
    else if (this.#isLoading) say(this.#top, "historyLoading");
    else if (this.#hasAll) say(this.#top, "historyBegin");
  }

  #retry() {
    this.#hasFailed = false;
    this.#scroller.focus();
    void this.#fill();
  }

  // --- Scrolling ---

  #keepPlace() {
    if (this.#isFollowing && this.#isShown) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** Somebody sees the newest message, or does not. */
  noticeRead() {
    const newest = this.#list.lastElementChild?.message;
    const isSeen = this.#isShown && this.#isFollowing && document.visibilityState === "visible";
    if (newest && isSeen) this.group.read(newest.ts);
  }

  // What changes above what is in sight does not move it.
  #holdPlace(change) {
    const below = this.#isShown ? this.#scroller.scrollHeight - this.#scroller.scrollTop : 0;
    change();
    if (this.#isShown) this.#scroller.scrollTop = this.#scroller.scrollHeight - below;
  }

  /** The box was scrolled. */
  noticeScroll() {
    if (!this.#isShown) return;
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.#isFollowing && this.unseen) {
      this.unseen = 0;
      this.onScroll();
    }
    this.noticeRead();
    if (scrollTop < NEAR_BEGIN) void this.#fill();
  }
}
