// What the moderators of a group have decided, and changing it.

import { aboutUser, act, actButton, acted } from "./acts.js";
import { call, may } from "./api.js";
import { byId, make, nameOf, onSubmit, verbatim } from "./dom.js";
import { label, say, sayTime } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { ENOUGH, poll } from "./poll.js";

const SECONDS = 5;

const LISTS = { moderators: byId("moderator-list"), bans: byId("ban-list"), mutes: byId("mute-list") };
const note = byId("policy-note");
const slow = byId("slow-seconds");
const slowState = byId("slow-state");
const muteAll = byId("mute-all");

let group = "";
let isMuted = false;

/** Show it until the signal. */
export function openPolicy(name, signal) {
  group = name;
  Object.values(LISTS).forEach(clearList);
  say(slowState, "empty");
  showMuteAll(false);
  slow.value = "0";
  byId("slow").hidden = !may("slow_mode");
  muteAll.hidden = !may("mute_all");
  byId("appoint").hidden = !may("moderators");
  say(note, may("policy") ? "empty" : "denied");
  if (!may("policy")) return;
  let isFirst = true;
  const look = async (each) => {
    const wasFirst = isFirst;
    isFirst = false;
    return read(each, wasFirst);
  };
  acted.addEventListener("acted", poll(SECONDS, look, signal, note), { signal });
}

async function read(signal, isFirst) {
  let policy;
  try {
    policy = await call("policy", { channel: group }, signal);
  } catch (error) {
    if (!error.isDenied) throw error;
    say(note, "denied");
    return ENOUGH;
  }
  say(note, "empty");
  const { moderators, bans, mutes, slow_mode: seconds, mute_all: isOn } = policy;
  if (isFirst) slow.value = String(seconds);
  say(slowState, seconds ? "slowOn" : "slowOff", { seconds });
  showMuteAll(isOn);
  showUsers(LISTS.moderators, moderators.map((user) => ({ user })), moderatorRow);
  showUsers(LISTS.bans, bans, (each) => sentenceRow(each, "modUnban", "unban"));
  showUsers(LISTS.mutes, mutes, (each) => sentenceRow(each, "modUnmute", "unmute"));
  return null;
}

function showMuteAll(isOn) {
  isMuted = isOn;
  say(muteAll, isOn ? "modEveryone" : "modOnly");
  muteAll.setAttribute("aria-pressed", String(isOn));
}

function showUsers(list, users, make_) {
  const shown = users.length ? users : [null];
  showList(list, shown, (each) => JSON.stringify(each), (each) => (each ? make_(each) : say(make("li", "help"), "none")));
}

function moderatorRow({ user }) {
  const body = () => ({ channel: group, remove: [user] });
  const remove = actButton("dismissModerator", "moderators", () => void act("dismissModerator", "moderators", body(), user));
  if (remove) label(remove, "actOn", { what: () => remove.textContent, user });
  return make("li", "line", nameOf(user), ...[remove].filter(Boolean));
}

function sentenceRow({ user, until, reason, by }, key, method) {
  const lift = actButton(key, method, () => void act(key, method, { channel: group, user }, user));
  const end = until ? [say(make("span"), "untilWhen"), " ", sayTime(make("time"), until, "stamp")] : [say(make("span"), "modForGood")];
  const why = reason ? [" · ", verbatim("", reason, "span")] : [];
  const whose = by ? [" · ", say(make("span"), "byWhom", { by })] : [];
  const details = make("p", "help", ...end, ...why, ...whose);
  return make("li", "line", make("div", "grow", nameOf(user), details), ...[lift].filter(Boolean));
}

export function startPolicy() {
  Object.values(LISTS).forEach((list) => walkByKeys(list, "button"));
  onSubmit("slow", () => void act("slowMode", "slow_mode", { channel: group, seconds: Number(slow.value) }));
  muteAll.addEventListener("click", () => {
    void act(isMuted ? "modEveryone" : "modOnly", "mute_all", { channel: group, on: !isMuted });
  });
  onSubmit("appoint", async () => {
    const user = byId("appointed");
    const name = user.value.trim();
    if (name && (await act("appoint", "moderators", { channel: group, add: [name] }, name))) user.value = "";
  });
  onSubmit("choose", () => {
    const user = byId("chosen").value.trim();
    if (user) aboutUser({ group, user });
  });
}
