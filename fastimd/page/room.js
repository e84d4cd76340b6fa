// Who is in the group in sight, at its side, and who types there.

import { byId, make, nameOf } from "./dom.js";
import { FastIMError } from "./fastim.js";
import { addTexts, hush, label, say } from "./language.js";

addTexts({
  en: {
    roomHere: "Who is here",
    roomCount: "{count} here",
    roomUnknown: "Who is here",
    roomYou: "you",
    roomModerate: "{user}: moderate",
    roomNotTold: "This server does not tell who is here.",
    roomTooMany: "{count} are here: too many to list.",
    roomTypes: "{user} is typing…",
    roomTypeTwo: "{user} and {other} are typing…",
    roomTypeMany: "{count} people are typing…",
  },
  zh: {
    roomHere: "在线成员",
    roomCount: "{count} 人在线",
    roomUnknown: "在线成员",
    roomYou: "我",
    roomModerate: "{user}：管理",
    roomNotTold: "该服务端不提供在线成员信息。",
    roomTooMany: "{count} 人在线，人数过多，不逐一列出。",
    roomTypes: "{user} 正在输入…",
    roomTypeTwo: "{user} 和 {other} 正在输入…",
    roomTypeMany: "{count} 人正在输入…",
  },
});

const here = byId("here");
const members = byId("members");
const typing = byId("typing");

export class RoomView {
  #group = null;
  #user = "";
  #rows = new Map();
  #stop = null; // ends listening to the group
  #moderate;

  /** @param {(user: string) => void} moderate  called when a moderator picks somebody */
  constructor(moderate) {
    this.#moderate = moderate;
    here.addEventListener("click", () => this.#toggle());
    for (const element of [here, members]) {
      element.addEventListener("keydown", ({ key }) => {
        if (key !== "Escape" || members.hidden) return;
        this.#toggle();
        here.focus();
      });
    }
  }

  /** A group comes into sight. */
  enter(group, user) {
    this.leave();
    this.#group = group;
    this.#user = user;
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    group.addEventListener("present", () => this.#show(), { signal });
    group.addEventListener("role", () => this.#renew(), { signal });
    group.addEventListener("typing", ({ detail }) => showTyping(detail), { signal });
    this.#show();
  }

  /** It is out of sight. */
  leave() {
    this.#stop?.abort();
    this.#group = null;
    this.#rows.clear();
    members.replaceChildren();
    hush(typing);
  }

  #renew() {
    this.#rows.clear();
    members.replaceChildren();
    this.#show();
  }

  #toggle() {
    members.hidden = !members.hidden;
    here.ariaExpanded = String(!members.hidden);
    if (!members.hidden) this.#show();
  }

  #show() {
    const { count, users, isAvailable } = this.#group.present;
    if (count === null) say(here, "roomUnknown");
    else say(here, "roomCount", { count });
    if (members.hidden) return;
    if (users) this.#list(users);
    else if (!isAvailable) this.#note("roomNotTold");
    else if (count !== null) void this.#ask(count);
  }

  // Too many to be told of each coming and going: they are as they were when one looked.
  async #ask(count) {
    const group = this.#group;
    try {
      const users = await group.members();
      if (group === this.#group) this.#list(users);
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      if (group === this.#group) this.#note("roomTooMany", { count });
    }
  }

  #note(key, values) {
    this.#rows.clear();
    members.replaceChildren(say(make("p", "help"), key, values));
  }

  // Rows that stay are not made anew: one of them may have the keyboard.
  #list(users) {
    const old = this.#rows;
    this.#rows = new Map(users.map((user) => [user, old.get(user) ?? this.#makeRow(user)]));
    const list = members.querySelector("ul") ?? make("ul");
    if (!list.isConnected) members.replaceChildren(list);
    for (const [user, row] of old) if (!this.#rows.has(user)) row.remove();
    for (const [place, row] of [...this.#rows.values()].entries()) {
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
    }
  }

  #makeRow(user) {
    const row = make("li", "", this.#group.isModerator && user !== this.#user ? this.#pick(user) : nameOf(user));
    if (user === this.#user) row.append(" ", say(make("span", "help"), "roomYou"));
    return row;
  }

  #pick(user) {
    const button = make("button", "quiet", nameOf(user));
    button.type = "button";
    label(button, "roomModerate", { user });
    button.addEventListener("click", () => this.#moderate(user));
    return button;
  }
}

function showTyping(users) {
  const [user, other] = users;
  if (users.length > 2) say(typing, "roomTypeMany", { count: users.length });
  else if (other) say(typing, "roomTypeTwo", { user, other });
  else if (user) say(typing, "roomTypes", { user });
  else hush(typing);
}
