// What is said in a group: the last messages, those that come, and saying something.

import { act, acted, confirm } from "./acts.js";
import { call, may } from "./api.js";
import { byId, onSubmit, sendOnEnter } from "./dom.js";
import { hush, say } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { messageRow, tsOf } from "./message.js";
import { ENOUGH, poll } from "./poll.js";

const SECONDS = 1;
const PAGE = 50;
/** How many messages are kept in sight. */
const MOST = 500;
/** Each so many looks, all that is in sight is read again: some of it may be gone. */
const AGAIN = 5;
const AT_END = 40; // pixels

const list = byId("messages");
const scroller = byId("scroller");
const older = byId("older");
const failure = byId("talk-failure");
const words = byId("words");
const purge = byId("purge");
const speak = byId("speak");

let talk = null;
let isAtEnd = true;
let said = { what: "", nonce: "" }; // what was said last: said again, it is the same message

class Talk {
  #group;
  #epoch = "";
  #offset = 0;
  #messages = [];
  #looks = 0;
  #wanted = PAGE;

  constructor(group) {
    this.#group = group;
    clearList(list);
  }

  get group() {
    return this.#group;
  }

  /** Read what has come; now and then, all that is in sight. */
  async look(signal) {
    const isWhole = this.#looks % AGAIN === 0;
    this.#looks += 1;
    try {
      if (isWhole) await this.#readAll(signal);
      else await this.#readOn(signal);
    } catch (error) {
      this.#looks = 0;
      if (!error.isDenied) throw error;
      say(failure, "denied");
      return ENOUGH;
    }
    hush(failure);
    return null;
  }

  /** Have the next look read everything in sight. */
  distrust() {
    this.#looks = 0;
  }

  readOlder() {
    this.#wanted = Math.min(MOST, this.#messages.length + PAGE);
    this.distrust();
  }

  async #readAll(signal) {
    const body = { channel: this.#group, limit: this.#wanted, reverse: true };
    const page = await call("history", body, signal);
    this.#epoch = page.epoch;
    this.#offset = page.offset;
    older.hidden = page.publications.length < this.#wanted || this.#wanted >= MOST;
    this.#show(page.publications.reverse());
  }

  async #readOn(signal) {
    const since = { offset: this.#offset, epoch: this.#epoch };
    const page = await call("history", { channel: this.#group, limit: 500, since }, signal);
    const come = page.publications;
    if (!come.length) return;
    this.#offset = Math.max(this.#offset, ...come.map(tsOf));
    this.#wanted = Math.min(MOST, this.#wanted + come.length);
    this.#show([...this.#messages, ...come].slice(-MOST));
  }

  #show(messages) {
    this.#messages = messages;
    showList(list, messages, keyOf, (message) => messageRow(this.#group, message));
    stayAtEnd();
  }
}

/** Who reads the newest message goes on doing so; who reads further up is left there. */
function stayAtEnd() {
  if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
}

const keyOf = (message) => `${tsOf(message)} ${message.info?.user ?? ""}`;

/** Show a group's messages until the signal. */
export function openTalk(group, signal) {
  talk = new Talk(group);
  isAtEnd = true;
  hush(failure);
  older.hidden = true;
  purge.hidden = !may("history_remove");
  speak.hidden = !may("publish");
  if (!may("history")) {
    say(failure, "denied");
    return;
  }
  const here = talk;
  const look = poll(SECONDS, (each) => here.look(each), signal, failure);
  const again = () => {
    here.distrust();
    look();
  };
  acted.addEventListener("acted", again, { signal });
  older.addEventListener("click", () => {
    here.readOlder();
    look();
  }, { signal });
}

async function publish() {
  const text = words.value;
  if (!text.trim()) return;
  const body = { channel: talk.group, user: byId("speaker").value.trim(), data: text };
  const what = JSON.stringify(body);
  if (said.what !== what) said = { what, nonce: newNonce() };
  if (await act("say", "publish", { ...body, idempotency_key: said.nonce })) {
    said = { what: "", nonce: "" };
    words.value = "";
    isAtEnd = true;
    stayAtEnd();
  }
}

/** An id of a message; plain HTTP to another machine has no `crypto.randomUUID`. */
function newNonce() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function deleteAll() {
  const { group } = talk;
  if (await confirm("confirmPurge", { group }, "purge")) await act("purge", "history_remove", { channel: group });
}

export function startTalk() {
  scroller.addEventListener("scroll", () => {
    isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < AT_END;
  });
  new ResizeObserver(stayAtEnd).observe(scroller);
  walkByKeys(list);
  sendOnEnter(words, () => speak.requestSubmit());
  onSubmit("speak", () => void publish());
  purge.addEventListener("click", () => void deleteAll());
}
