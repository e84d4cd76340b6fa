// The log of the tab "Raw": its entries, and which of them are in sight.

import { byId, make, remember, remembered } from "./dom.js";
import { onTranslate, say } from "./language.js";

const LOG_ENTRIES = 1000;
const FLUSH_MS = 30;

const log = byId("log");

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
  hourCycle: "h23",
});
export const calendar = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

let waiting = [];
let flushTimer = null;

/** A date in one of the formats above. */
export function timeElement(date, format) {
  const element = make("time", "", format.format(date));
  element.dateTime = date.toISOString();
  return element;
}

/** Write an entry; the direction is "Sent", "Received", "Opened", "Closed" or "Note". */
export function writeLog(direction, ...parts) {
  const head = make("header", "", timeElement(new Date(), clock));
  head.append(say(make("span", "direction"), `label${direction}`));
  const body = make("div", "body", ...parts);
  waiting.push(make("article", `entry ${direction.toLowerCase()}`, head, body));
  if (waiting.length > LOG_ENTRIES) waiting.shift();
  flushTimer ??= setTimeout(flushLog, FLUSH_MS);
}

// Entries enter the page in batches: a busy group sends thousands a second, and each scroll costs
// a layout.
function flushLog() {
  clearTimeout(flushTimer);
  flushTimer = null;
  log.append(...waiting);
  waiting = [];
  while (log.childElementCount > LOG_ENTRIES) log.firstElementChild.remove();
  keepFollowing();
}

// The newest entry stays in sight for those who have not scrolled up to read.
function keepFollowing() {
  if (log.classList.contains("following")) log.scrollTop = log.scrollHeight;
}

function noticeScroll() {
  const below = log.scrollHeight - log.scrollTop - log.clientHeight;
  log.classList.toggle("following", below < 8);
}

function clearLog() {
  waiting = [];
  log.replaceChildren();
  log.classList.add("following");
}

/** Write what the page itself has to say. */
export function note(key, values, ...more) {
  writeLog("Note", say(make("p"), key, values), ...more);
}

function showRaw() {
  log.classList.toggle("tidy", !byId("raw").checked);
  remember("raw", byId("raw").checked ? "shown" : "hidden");
  keepFollowing();
}

/** Begin. */
export function startLog() {
  byId("raw").checked = remembered("raw") !== "hidden";
  showRaw();
  byId("clear").addEventListener("click", clearLog);
  byId("raw").addEventListener("change", showRaw);
  log.addEventListener("scroll", noticeScroll);
  new ResizeObserver(keepFollowing).observe(log);
  onTranslate(() => {
    flushLog(); // what waits is translated with the page
    queueMicrotask(keepFollowing);
  });
}
