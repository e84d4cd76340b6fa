// The groups with somebody in them, the busiest first.

import { call, may, namedGroups } from "./api.js";
import { byId, make, onSubmit, verbatim } from "./dom.js";
import { count } from "./figures.js";
import { say } from "./language.js";
import { showList, walkByKeys } from "./list.js";
import { poll } from "./poll.js";

const SECONDS = 2;
/** The busiest so many are shown; the filter finds the others. */
const MOST = 200;
/** Seconds over which the messages of a group are counted. */
const SPAN = 10;

const list = byId("group-list");
const filter = byId("filter");
const note = byId("groups-note");
const none = byId("no-groups");

let groups = [];
let missing = 0;
let looks = []; // the last ones: when, and the messages that each group had had

/** Show them until the signal. */
export function openGroups(signal) {
  looks = [];
  if (may("channels")) {
    poll(SECONDS, look, signal, note);
    return;
  }
  groups = namedGroups().map((name) => ({ name, sockets: null, rate: null }));
  show();
  say(note, "groupsDenied");
}

async function look(signal) {
  const found = await call("channels", {}, signal);
  const now = performance.now() / 1000;
  const entries = Object.entries(found.channels);
  looks.push({ at: now, messages: new Map(entries.map(([name, info]) => [name, info.num_messages ?? 0])) });
  while (looks.length > 2 && looks[0].at < now - SPAN) looks.shift();
  const [{ at, messages }] = looks;
  groups = entries.map(([name, { num_clients: sockets, num_messages: total = 0 }]) => {
    // Who has come since, or begun anew, has its messages not counted twice.
    const before = Math.min(messages.get(name) ?? total, total);
    return { name, sockets, rate: now > at ? (total - before) / (now - at) : 0 };
  });
  missing = found.missing ?? 0;
  show();
}

function show() {
  const wanted = filter.value.trim().toLocaleLowerCase();
  const fitting = groups.filter(({ name }) => name.toLocaleLowerCase().includes(wanted)).sort(byActivity);
  // Nothing moves under a hand.
  const places = new Map([...list.children].map((row, place) => [row.dataset.name, place]));
  const place = ({ name }) => places.get(name) ?? Infinity;
  const shown = fitting.slice(0, MOST);
  if (list.matches(":hover, :focus-within")) shown.sort((one, other) => place(one) - place(other) || byActivity(one, other));
  showList(list, shown, ({ name }) => name, row, update);
  none.hidden = fitting.length > 0;
  if (missing) say(note, "groupsMissing", { count: missing });
  else if (fitting.length > MOST) say(note, "groupsMore", { shown: () => count(MOST), all: () => count(fitting.length) });
  else say(note, "groupsCount", { count: fitting.length });
}

function byActivity(one, other) {
  return other.rate - one.rate || other.sockets - one.sockets || one.name.localeCompare(other.name);
}

function row({ name }) {
  const link = make("a", "group-row", verbatim("name", name, "b"), make("span"), make("span"));
  link.href = linkOf(name);
  const item = make("li", "", link);
  item.dataset.name = name;
  return item;
}

function update(item, { sockets, rate }) {
  const [, rateText, socketsText] = item.firstElementChild.children;
  rateText.textContent = rate === null ? "" : count(rate);
  socketsText.textContent = sockets === null ? "" : count(sockets);
}

/** Where a group is shown. */
export const linkOf = (group) => `#/group/${encodeURIComponent(group)}`;

export function startGroups() {
  walkByKeys(list);
  filter.addEventListener("input", show);
  filter.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" || !list.firstElementChild) return;
    event.preventDefault();
    list.querySelector("a").focus();
  });
  onSubmit("find", () => {
    const name = filter.value.trim();
    if (name) location.hash = linkOf(name);
  });
}
