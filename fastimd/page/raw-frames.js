// Frames, made readable for the log of the tab "Raw".

import { byId, make, verbatim } from "./dom.js";
import { authorOf, say } from "./language.js";
import { calendar, timeElement, writeLog } from "./raw-log.js";

const isObject = (value) => typeof value === "object" && value !== null;
const isMessage = (value) => isObject(value) && "userId" in value && typeof value.info === "string";

/** A frame's JSON; undefined if it is none. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function messageLine(chat, ownUser) {
  const user = String(chat.userId);
  const line = make("div", "said", authorOf(user), verbatim("text", chat.info, "span"));
  line.classList.toggle("own", user === ownUser);
  const when = new Date(chat.ts);
  if (!Number.isNaN(when.getTime())) line.append(timeElement(when, calendar));
  return line;
}

function greetingLines({ list, total }, ownUser) {
  const key = list.length ? "greeting" : "greetingEmpty";
  const title = say(make("p", "title"), key, { shown: list.length, total });
  return [title, ...list.filter(isMessage).map((chat) => messageLine(chat, ownUser))];
}

function groupLine({ newMessage, total }, ownUser) {
  const name = isMessage(newMessage)
    ? say(make("b"), "groupLine", { group: newMessage.groupId })
    : say(make("b"), "groupUnknown");
  const count = say(make("span", "total"), "groupTotal", { total });
  const line = make("div", "group", make("p", "", name, count));
  if (isMessage(newMessage)) line.append(messageLine(newMessage, ownUser));
  return line;
}

function groupLines(groups, ownUser) {
  const title = say(make("p", "title"), "groups", { count: groups.length });
  return [title, ...groups.filter(isObject).map((group) => groupLine(group, ownUser))];
}

// Elements that show what a frame says, or none when the raw text says it best.
function readable(text, ownUser) {
  const value = parse(text);
  if (isMessage(value)) return [messageLine(value, ownUser)];
  if (Array.isArray(value)) return groupLines(value, ownUser);
  if (isObject(value) && Array.isArray(value.list)) return greetingLines(value, ownUser);
  return [];
}

function loginNotice(user) {
  const go = say(make("button", "quiet"), "loginGo");
  go.type = "button";
  go.addEventListener("click", () => byId("password").focus());
  return [say(make("p", "explain"), "loginNeeded", { user }), go];
}

/** Log a frame that came to a user. */
export function logFrame(data, ownUser) {
  if (typeof data !== "string") {
    writeLog("Received", say(make("p"), "binary", { bytes: data.byteLength }));
    return;
  }
  const lines = data === "440" ? loginNotice(ownUser) : readable(data, ownUser);
  // The raw text can only be hidden where something else says the same.
  const raw = verbatim(lines.length ? "raw" : "plain", data);
  writeLog("Received", ...lines, raw);
}
