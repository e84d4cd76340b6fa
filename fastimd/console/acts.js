// Doing something: the dialog that asks first, the call, and what became of it.

import { call, may } from "./api.js";
import { byId, make, nameOf, verbatim } from "./dom.js";
import { hush, phrase, say } from "./language.js";

const DURATIONS = [
  [600, "modMinutes"], [3_600, "modHour"], [86_400, "modDay"], [604_800, "modWeek"], [0, "modForGood"],
];
const MAX_REASON = 256;
const SHOWN_SECONDS = 12;

const dialog = byId("act");
const outcome = byId("outcome");
const failure = byId("outcome-failure");
let shown = 0;

/** Called after each act: what is shown may be another now. */
export const acted = new EventTarget();

/**
 * Call a method and show what became of it.
 * @param {string} key the words of what is done
 * @param {string} user whom it concerns, "" for nobody
 * @returns whether it was done
 */
export async function act(key, method, body, user = "") {
  try {
    await call(method, body);
  } catch (error) {
    showFailure(error);
    return false;
  }
  showDone(key, user);
  acted.dispatchEvent(new Event("acted"));
  return true;
}

export function showDone(key, user = "") {
  hush(failure);
  say(outcome, user ? "modDoneOf" : "modDone", { what: () => phrase(key), user });
  hideLater();
}

export function showFailure(error) {
  hush(outcome);
  say(failure, reasonOf(error), { reason: error.message });
  hideLater();
}

/** The key of the words for why a call was not done. */
export function reasonOf(error) {
  if (error.isDenied) return "denied";
  return error.code ? "modRefused" : "noAnswer";
}

function hideLater() {
  clearTimeout(shown);
  shown = setTimeout(() => [outcome, failure].forEach(hush), SHOWN_SECONDS * 1000);
}

/** A button that does something, or null if the key may not call the method. */
export function actButton(key, method, action, className = "quiet") {
  if (!may(method)) return null;
  const button = say(make("button", className), key);
  button.type = "button";
  button.addEventListener("click", action);
  return button;
}

/** What is not null of the buttons of a row. */
export const rowOf = (className, ...buttons) => make("div", className, ...buttons.filter(Boolean));

/** Ask whether something that cannot be taken back is to be done. */
export function confirm(question, given, button) {
  const words = say(make("p", "question"), question, given);
  const go = say(make("button", "danger"), button);
  return new Promise((resolve) => {
    openDialog(say(make("span"), button), [words], [[go]], [], () => resolve(true), () => resolve(false));
    go.focus();
  });
}

/**
 * Ask what is to be done about a user in a group, and the message that gave rise to it.
 * @param {{group: string, user: string, ts?: number, text?: string, reason?: string}} about
 */
export function aboutUser({ group, user, ts, text, reason: given = "" }) {
  const reason = Object.assign(make("input"), { id: "act-reason", maxLength: MAX_REASON, value: given });
  const duration = durations();
  duration.id = "act-duration";
  const body = () => ({ channel: group, user, seconds: Number(duration.value), reason: reason.value.trim() });
  const whom = { channel: group, user };
  const done = (key, method, data) => async () => {
    dialog.close();
    await act(key, method, data(), user);
  };
  const deleteAll = async () => {
    if (await confirm("confirmDeleteAll", { user, group }, "modDeleteAll")) await act("modDeleteAll", "delete_messages_of", whom, user);
  };
  const button = (key, method, data, className = "") => actButton(key, method, done(key, method, data), className);
  const mute = button("modMute", "mute", body, "primary");
  if (mute) mute.type = "submit";
  const restraints = [
    mute,
    button("modUnmute", "unmute", () => whom),
    button("modBan", "ban", body),
    button("modUnban", "unban", () => whom),
  ];
  const membership = [
    button("appoint", "moderators", () => ({ channel: group, add: [user] })),
    button("endSockets", "unsubscribe", () => whom),
    button("remove", "leave", () => whom),
  ];
  const deletions = [
    ts ? button("modDelete", "delete_message", () => ({ channel: group, ts })) : null,
    user ? actButton("modDeleteAll", "delete_messages_of", deleteAll, "") : null,
  ];
  const quote = text === undefined ? [] : [verbatim("quote", text, "p")];
  const mayRestrain = user && (may("mute") || may("ban"));
  const fields = mayRestrain ? [field("modReason", reason), field("modFor", duration)] : [];
  const title = user ? nameOf(user) : say(make("span"), "theServer");
  const rows = user ? [restraints, deletions, membership] : [deletions];
  openDialog(title, [...quote, ...fields], rows, user ? [userLink(user)] : []);
  if (mayRestrain) reason.focus();
}

/** The way to what concerns a user in all groups. */
function userLink(user) {
  const link = say(make("a"), "userPage");
  link.href = `#/user/${encodeURIComponent(user)}`;
  link.addEventListener("click", () => dialog.close());
  return link;
}

/** Open the dialog. Enter presses the first button of its rows, Escape closes it. */
function openDialog(title, parts, rows, last, onSubmit = () => {}, onClose = () => {}) {
  const heading = make("h2", "", title);
  heading.id = "act-title";
  const close = say(make("button"), "modClose");
  close.type = "button";
  close.addEventListener("click", () => dialog.close());
  const acts = rows.map((row) => rowOf("acts", ...row)).filter((row) => row.childElementCount);
  const form = make("form", "", heading, ...parts, ...acts, make("div", "last", ...last, close));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.removeEventListener("close", onClose);
    dialog.close();
    onSubmit();
  });
  dialog.addEventListener("close", onClose, { once: true });
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
}

export function durations(chosen = 3_600) {
  const options = DURATIONS.map(([seconds, key]) => Object.assign(say(make("option"), key), { value: seconds }));
  const select = make("select", "", ...options);
  select.value = String(chosen);
  return select;
}

function field(key, input) {
  return make("label", "field", say(make("span"), key), input);
}
