// The list of the user's groups: newest message, time, how many messages are unread.

import { make, verbatim } from "./dom.js";
import { addTexts, authorOf, dayOf, label, say, sayTime } from "./language.js";

addTexts({
  en: { groupSilent: "No messages", groupUnread: "{count} unread" },
  zh: { groupSilent: "暂无消息", groupUnread: "{count} 条未读" },
});

export class GroupsView {
  #list;
  #open;
  #rows = new Map();
  #opened = null;

  /**
   * @param {HTMLElement} list  where the rows go
   * @param {(groupId: string) => void} open
   */
  constructor(list, open) {
    this.#list = list;
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

  /** Show a list as it is now. */
  update(entries) {
    const known = new Set(entries.map(({ groupId }) => groupId));
    for (const [groupId, row] of this.#rows) {
      if (known.has(groupId)) continue;
      row.element.remove();
      this.#rows.delete(groupId);
    }
    for (const [place, entry] of entries.entries()) {
      const row = this.#rows.get(entry.groupId) ?? this.#addRow(entry);
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

  /** Mark the group that is in sight, if one is. */
  open(groupId) {
    this.#opened = groupId;
    for (const row of this.#rows.values()) this.#show(row);
  }

  focus(groupId) {
    this.#rows.get(groupId)?.button.focus();
  }

  #addRow(entry) {
    const name = verbatim("name", entry.groupId, "b");
    const time = make("time");
    const newest = make("span", "newest");
    const unread = make("span", "unread");
    const button = make("button", "", name, time, newest, unread);
    button.type = "button";
    button.addEventListener("click", () => this.#open(entry.groupId));
    const row = { entry, element: make("li", "", button), button, time, newest, unread };
    this.#rows.set(entry.groupId, row);
    return row;
  }

  #show(row) {
    const { entry, button, time, newest, unread } = row;
    const { groupId, newMessage, unread: count } = entry;
    button.ariaCurrent = String(groupId === this.#opened);
    if (newMessage) {
      sayTime(time, newMessage.ts, dayOf(newMessage.ts) === dayOf(Date.now()) ? "time" : "shortDay");
      delete newest.dataset.text;
      newest.replaceChildren(authorOf(newMessage.userId), verbatim("", ` ${newMessage.info}`, "span"));
    } else {
      time.textContent = "";
      delete time.dataset.time;
      say(newest, "groupSilent");
    }
    unread.hidden = count === 0;
    if (count) {
      unread.textContent = count > 99 ? "99+" : String(count);
      label(unread, "groupUnread", { count });
      unread.role = "img";
    }
  }
}
