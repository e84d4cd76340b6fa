// A user: the groups, and an end to all connections.

import { act, acted, confirm, reasonOf } from "./acts.js";
import { call, may } from "./api.js";
import { byId, make, onSubmit, verbatim } from "./dom.js";
import { count } from "./figures.js";
import { linkOf } from "./group-list.js";
import { say } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { authorOf, textOf } from "./message.js";

const list = byId("user-groups");
const note = byId("user-note");
const disconnect = byId("disconnect");
const whom = byId("whom");

let user = "";

/** Show a user until the signal; without one, only the field. */
export function openPerson(name, signal) {
  user = name;
  whom.value = name;
  byId("person").hidden = !name;
  clearList(list);
  if (!name) {
    whom.focus();
    return;
  }
  const title = byId("user-title");
  title.textContent = name;
  title.focus({ preventScroll: true });
  disconnect.hidden = !may("disconnect");
  if (!may("groups")) {
    say(note, "denied");
    return;
  }
  void read(signal);
  acted.addEventListener("acted", () => void read(signal), { signal });
}

async function read(signal) {
  say(note, "searching");
  try {
    const { groups } = await call("groups", { user }, signal);
    if (signal.aborted) return;
    say(note, groups.length ? "userGroups" : "userNoGroups", { count: groups.length });
    showList(list, groups, ({ channel }) => channel, row, update);
  } catch (error) {
    if (!signal.aborted) say(note, reasonOf(error), { reason: error.message });
  }
}

function row({ channel }) {
  const link = make("a", "group-row", verbatim("name", channel, "b"), verbatim("newest", "", "span"), make("span"));
  link.href = linkOf(channel);
  return make("li", "", link);
}

function update(item, { last, total }) {
  const [, newest, messages] = item.firstElementChild.children;
  newest.textContent = last ? `${authorOf(last)}: ${textOf(last)}`.replace(/^: /, "") : "";
  say(messages, "messagesCount", { count: total, number: () => count(total) });
}

async function end() {
  if (await confirm("confirmDisconnect", { user }, "disconnect")) await act("disconnect", "disconnect", { user }, user);
}

export function startPerson() {
  walkByKeys(list);
  onSubmit("find-user", () => {
    const name = whom.value.trim();
    if (name) location.hash = `#/user/${encodeURIComponent(name)}`;
  });
  disconnect.addEventListener("click", () => void end());
}
