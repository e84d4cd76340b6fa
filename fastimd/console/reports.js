// What members have reported in a group, and what is done about it with one click.

import { act, actButton, aboutUser, acted, rowOf } from "./acts.js";
import { call, may } from "./api.js";
import { byId, make, nameOf, verbatim } from "./dom.js";
import { say, sayTime } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { textOf, tsOf } from "./message.js";
import { ENOUGH, poll } from "./poll.js";

const SECONDS = 5;
/** The newest so many are shown. */
const MOST = 50;
const MUTE_SECONDS = 3_600;
const BAN_SECONDS = 86_400;

const list = byId("report-list");
const note = byId("reports-note");
const tab = byId("tab-reports");
const texts = new Map();

/** Show them until the signal. */
export function openReports(group, signal) {
  clearList(list);
  texts.clear();
  say(tab, "reports");
  say(note, may("reports") ? "empty" : "denied");
  if (!may("reports")) return;
  acted.addEventListener("acted", poll(SECONDS, (each) => look(group, each), signal, note), { signal });
}

async function look(group, signal) {
  let reports = [];
  try {
    ({ reports } = await call("reports", { channel: group }, signal));
  } catch (error) {
    if (!error.isDenied) throw error;
    say(note, "denied");
    return ENOUGH;
  }
  const cases = new Map();
  for (const report of reports) cases.set(report.ts, [...(cases.get(report.ts) ?? []), report]);
  const newest = [...cases.values()].reverse().slice(0, MOST);
  await readTexts(group, newest.map(([{ ts }]) => ts), signal);
  if (cases.size) say(tab, "reportsCount", { count: cases.size });
  else say(tab, "reports");
  if (!cases.size) say(note, "modNoReports");
  else say(note, cases.size > MOST ? "newestReports" : "empty", { count: MOST });
  // Another report of a message makes its row anew.
  showList(list, newest, (each) => `${each[0].ts} ${each.length}`, (each) => row(group, each));
  return null;
}

/** Read what the reported messages say, those that are not known yet. */
async function readTexts(group, wanted, signal) {
  const unknown = wanted.filter((ts) => !texts.has(ts));
  if (!unknown.length || !may("history")) return;
  const asked = (ts) => ({ history: { channel: group, limit: 1, since: { offset: ts - 1, epoch: "" } } });
  const { replies } = await call("batch", { commands: unknown.map(asked), parallel: true }, signal);
  for (const [number, ts] of unknown.entries()) {
    const [message] = replies[number].history?.publications ?? [];
    texts.set(ts, message && tsOf(message) === ts ? textOf(message) : null);
  }
}

function row(group, reports) {
  const [{ ts, user }] = reports;
  const text = texts.get(ts);
  const reason = reports[0].reason;
  const message = { channel: group, ts };
  const restraint = (seconds) => ({ channel: group, user, seconds, reason });
  const once = (key, method, body, whom) => actButton(key, method, () => void act(key, method, body, whom));
  const more = actButton("moreActs", "mute", () => aboutUser({ group, user, ts, text: text ?? undefined, reason }));
  const head = make("div", "head", nameOf(user), sayTime(make("time"), ts, "stamp"));
  const quote = text ? verbatim("quote", text, "p") : say(make("p", "help"), "messageUnknown");
  const buttons = rowOf(
    "acts",
    once("modDelete", "delete_message", message, user),
    user ? once("muteHour", "mute", restraint(MUTE_SECONDS), user) : null,
    user ? once("banDay", "ban", restraint(BAN_SECONDS), user) : null,
    once("dismiss", "dismiss", message),
    user ? more : null,
  );
  return make("li", "report", head, quote, ...reports.map(words), buttons);
}

function words({ by, reason, at }) {
  const said = say(make("span"), "reported", { by, reason });
  said.dir = "auto";
  return make("p", "help", said, " · ", sayTime(make("time"), at, "stamp"));
}

export function startReports() {
  walkByKeys(list);
}
