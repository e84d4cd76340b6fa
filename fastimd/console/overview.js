// How the daemons are: charts over all of them, each by itself, and the last troubles.

import { act, actButton, confirm } from "./acts.js";
import { call, may } from "./api.js";
import { Chart, SPAN } from "./chart.js";
import { byId, make, verbatim } from "./dom.js";
import { bytes, count, duration } from "./figures.js";
import { hush, label, say, sayTime } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { poll } from "./poll.js";

const SECONDS = 2;
const MOST_TROUBLES = 50;

const daemons = byId("daemons");
const troubles = byId("troubles");
const missing = byId("daemons-missing");

const CHARTS = [
  new Chart("messagesRate", (sample) => sample.messages, count),
  new Chart("deliveriesRate", (sample) => sample.deliveries, count),
  new Chart("bytesRate", (sample) => sample.sent, bytes),
  new Chart("connections", (sample) => sample.sockets, count),
  new Chart("outbox", (sample) => sample.outbox, bytes),
  new Chart("held", (sample) => sample.held, count),
];

const samples = [];
let before = null; // when the daemons were asked last, and what each had counted

/** Ask the daemons until the signal, whatever is looked at: the charts go on. */
export function watchDaemons(signal) {
  samples.length = 0;
  before = null;
  clearList(daemons);
  clearList(troubles);
  if (may("status")) poll(SECONDS, look, signal, missing);
  else say(missing, "denied");
}

async function look(signal) {
  const found = await call("status", {}, signal);
  const now = Date.now();
  const rates = ratesOf(found.daemons, now);
  if (rates.size) samples.push({ at: now, ...sumOf(found.daemons, rates) });
  while (samples.length && samples[0].at < now - SPAN) samples.shift();
  for (const chart of CHARTS) chart.draw(samples, now);
  showList(daemons, found.daemons, ({ uid }) => uid, daemonRow, (row, daemon) => showDaemon(row, daemon, rates.get(daemon.uid)));
  showTroubles(found.daemons);
  if (found.missing) say(missing, "daemonsMissing", { count: found.missing });
  else hush(missing);
}

/** What each daemon did in a second since the last look; of a new one nothing is known yet. */
function ratesOf(found, now) {
  const seconds = before === null ? 0 : (now - before.at) / 1000;
  const counted = new Map(found.map((daemon) => [daemon.uid, daemon]));
  const rates = new Map();
  for (const [uid, daemon] of counted) {
    const last = before?.counted.get(uid);
    if (!last || !seconds) continue;
    const rate = (read) => Math.max(0, read(daemon) - read(last)) / seconds;
    rates.set(uid, {
      messages: rate(({ counters }) => counters.messages),
      deliveries: rate(({ counters }) => counters.deliveries),
      sent: rate((each) => each.bytes_sent),
    });
  }
  before = { at: now, counted };
  return rates;
}

function sumOf(found, rates) {
  const sum = (values) => values.reduce((all, each) => all + each, 0);
  const known = [...rates.values()];
  return {
    messages: sum(known.map((each) => each.messages)),
    deliveries: sum(known.map((each) => each.deliveries)),
    sent: sum(known.map((each) => each.sent)),
    sockets: sum(found.map(socketsOf)),
    outbox: sum(found.map((each) => each.outbox_bytes)),
    held: sum(found.map((each) => each.redis.held)),
  };
}

const socketsOf = ({ sockets }) => Object.values(sockets).reduce((all, each) => all + each, 0);

const FIGURES = {
  uptime: (daemon) => duration(daemon.uptime),
  connections: (daemon) => count(socketsOf(daemon)),
  groups: (daemon) => count(daemon.groups),
  messagesRate: (_, rates) => (rates ? count(rates.messages) : "–"),
  deliveriesRate: (_, rates) => (rates ? count(rates.deliveries) : "–"),
  slowClosed: (daemon) => count(daemon.counters.slow_closes),
  refused: (daemon) => count(daemon.counters.connections_refused),
};

function daemonRow({ uid, name, version, pid, redis }) {
  const figures = Object.keys(FIGURES).map((key) => make("div", "", say(make("dt"), key), make("dd")));
  const drain = actButton("drain", "drain", () => void drainDaemon(uid, name), "");
  if (drain) label(drain, "actOn", { what: () => drain.textContent, user: name });
  const head = make("div", "head", make("span", "dot"), verbatim("name", name, "b"), make("span", "state"), ...[drain].filter(Boolean));
  const about = verbatim("help", `${version} · pid ${pid} · ${redis.address}`, "p");
  return make("li", "daemon", head, make("p", "failure"), make("dl", "", ...figures), about);
}

function showDaemon(row, daemon, rates) {
  row.dataset.state = daemon.ready ? "ready" : "unready";
  say(row.querySelector(".state"), daemon.ready ? "ready" : "unready");
  const reasons = [...daemon.reasons, ...[daemon.redis.commands, daemon.redis.messages].filter(Boolean)];
  row.querySelector(".failure").textContent = [...new Set(reasons)].join(", ");
  const values = row.querySelectorAll("dd");
  for (const [number, show] of Object.values(FIGURES).entries()) values[number].textContent = show(daemon, rates);
}

function showTroubles(found) {
  const all = found.flatMap((daemon) => daemon.troubles.map((trouble) => ({ ...trouble, daemon: daemon.name })));
  const newest = all.sort((one, other) => other.at - one.at).slice(0, MOST_TROUBLES);
  byId("no-troubles").hidden = newest.length > 0;
  showList(troubles, newest, (each) => JSON.stringify([each.daemon, each.event, each.fields, each.first_at, each.count]), troubleRow);
}

function troubleRow({ at, count: times, level, event, fields, daemon }) {
  const head = make("div", "head", verbatim("event", event, "b"), sayTime(make("time"), at * 1000, "stamp"));
  if (times > 1) head.append(say(make("span", "tag"), "times", { number: () => count(times) }));
  head.append(verbatim("tag", daemon, "span"));
  const details = Object.entries(fields).map(([name, value]) => `${name}=${value}`).join("  ");
  const row = make("li", "trouble", head, ...(details ? [verbatim("help", details, "p")] : []));
  row.dataset.level = level;
  return row;
}

async function drainDaemon(uid, name) {
  if (await confirm("confirmDrain", { name }, "drain")) await act("drain", "drain", { daemon: uid }, name);
}

export function startOverview() {
  byId("charts").append(...CHARTS.map(({ element }) => element));
  walkByKeys(daemons, "button");
}
