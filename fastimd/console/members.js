// Who is in a group.

import { aboutUser, acted } from "./acts.js";
import { call, may } from "./api.js";
import { byId, make, nameOf } from "./dom.js";
import { count } from "./figures.js";
import { label, say } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { ENOUGH, poll } from "./poll.js";

const SECONDS = 5;
const TOO_MANY = 106;
const OFF = 108;

const list = byId("member-list");
const note = byId("members-note");
const numbers = byId("group-note");

/** Show them until the signal. */
export function openMembers(group, signal) {
  clearList(list);
  say(numbers, "empty");
  if (!may("presence")) say(note, "denied");
  if (!may("presence") && !may("presence_stats")) return;
  acted.addEventListener("acted", poll(SECONDS, (each) => look(group, each), signal, note), { signal });
}

async function look(group, signal) {
  if (may("presence_stats")) await showNumbers(group, signal);
  if (!may("presence")) return null;
  let presence = {};
  try {
    ({ presence } = await call("presence", { channel: group }, signal));
  } catch (error) {
    if (error.isDenied) say(note, "denied");
    else if (error.code === TOO_MANY) say(note, "tooManyMembers");
    else if (error.code === OFF) say(note, "presenceOff");
    else throw error;
    showList(list, [], String, () => null);
    return error.code === TOO_MANY ? null : ENOUGH;
  }
  const sockets = new Map();
  for (const { user } of Object.values(presence)) sockets.set(user, (sockets.get(user) ?? 0) + 1);
  const members = [...sockets].sort(([one], [other]) => one.localeCompare(other));
  say(note, members.length ? "empty" : "nobody");
  showList(list, members, ([user]) => user, ([user]) => row(group, user), update);
  return null;
}

async function showNumbers(group, signal) {
  try {
    const { num_clients: sockets, num_users: users } = await call("presence_stats", { channel: group }, signal);
    say(numbers, "presence", { sockets: () => count(sockets), users: () => count(users) });
  } catch (error) {
    if (!error.isDenied && error.code !== OFF) throw error;
    say(numbers, "empty");
  }
}

function row(group, user) {
  const button = label(make("button", "plain", nameOf(user)), "actsOfUser", { user });
  button.type = "button";
  button.addEventListener("click", () => aboutUser({ group, user }));
  return make("li", "line", button, make("span", "help"));
}

function update(element, [, sockets]) {
  const text = element.lastElementChild;
  if (sockets > 1) say(text, "sockets", { count: sockets });
  else say(text, "empty");
}

export function startMembers() {
  walkByKeys(list);
}
