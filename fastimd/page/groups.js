// The list of the user's groups: newest message, time, how many messages are unread.

import { make, nameOf, verbatim } from "./dom.js";
import { addTexts, dayOf, label, say, sayTime } from "./language.js";

addTexts({
  en: { groupSilent: "No messages", groupUnread: "{count} unread" },
  zh: { groupSilent: "暂无消息", groupUnread: "{count} 条未读" },
});

export class GroupsView {
  #list;
  #user;
  #open;
  #rows = new Map();
  #opened = null;

  /**
   * @param {HTMLElement} list  where the rows go
   * @param {string} user       whose groups they are
   * @param {(groupId: string) => void} open
   */
  constructor(list, user, open) {
    this.#list = list;
    this.#user = user;
    this.#open = open;
    this.clear();
  }

  get isEmpty() {
    return this.#rows.size === 0;
  }

  /** How many messages a group has; null while nobody knows. */
  totalOf(groupId) {
    return this.#rows.get(groupId)?.entry.total ?? null;
  }

  clear() {
    this.#rows.clear();
    this.#list.replaceChildren();
  }

  /** Show a list as the server pushes it. */
  update(entries) {
    const isFirst = this.isEmpty;
    const known = new Set(entries.map(({ groupId }) => groupId));
    for (const [groupId, row] of this.#rows) {
      if (known.has(groupId)) continue;
      row.element.remove();
      this.#rows.delete(groupId);
    }
    for (const [place, entry] of entries.entries()) {
      const row = this.#rows.get(entry.groupId) ?? this.#addRow(entry, isFirst);
      row.entry = entry;
      this.#show(row);
      this.#move(row.element, place);
    }
  }

  // A row that moves loses the focus, and the click that is being made: only those move that must.
  #move(element, place) {
    const there = this.#list.children[place];
    if (there === element) return;
    const focused = document.activeElement;
    this.#list.insertBefore(element, there ?? null);
    if (element.contains(focused)) focused.focus();
  }

  /** Mark the group that is in sight, if one is; what it has is read. */
  open(groupId) {
    this.#opened = groupId;
    for (const row of this.#rows.values()) this.#show(row);
  }

  focus(groupId) {
    this.#rows.get(groupId)?.button.focus();
  }

  #addRow(entry, isRead) {
    const name = verbatim("name", entry.groupId, "b");
    const time = make("time");
    const newest = make("span", "newest");
    const unread = make("span", "unread");
    const button = make("button", "", name, time, newest, unread);
    button.type = "button";
    button.addEventListener("click", () => this.#open(entry.groupId));
    const read = isRead ? entry : { newMessage: null, total: 0 };
    const row = { entry, read, element: make("li", "", button), button, time, newest, unread };
    this.#rows.set(entry.groupId, row);
    return row;
  }

  #show(row) {
    const { entry, button, time, newest, unread } = row;
    const { groupId, newMessage } = entry;
    const isOpen = groupId === this.#opened;
    const isOwn = newMessage?.userId === this.#user;
    if (isOpen || isOwn || !newMessage) row.read = entry;
    button.ariaCurrent = String(isOpen);
    if (newMessage) {
      sayTime(time, newMessage.ts, dayOf(newMessage.ts) === dayOf(Date.now()) ? "time" : "shortDay");
      delete newest.dataset.text;
      newest.replaceChildren(nameOf(newMessage.userId), verbatim("", ` ${newMessage.info}`, "span"));
    } else {
      time.textContent = "";
      delete time.dataset.time;
      say(newest, "groupSilent");
    }
    // A full list drops its oldest: then the total stays, though there is a newer message.
    const isNewer = newMessage && newMessage.ts > (row.read.newMessage?.ts ?? 0);
    const count = isNewer ? Math.max(1, entry.total - row.read.total) : 0;
    unread.hidden = count === 0;
    if (count) {
      unread.textContent = count > 99 ? "99+" : String(count);
      label(unread, "groupUnread", { count });
      unread.role = "img";
    }
  }
}
