// One group: what is said, who is there, what was reported, what is decided, what is looked for.

import { byId } from "./dom.js";
import { openMembers, startMembers } from "./members.js";
import { openPolicy, startPolicy } from "./policy.js";
import { openReports, startReports } from "./reports.js";
import { openSearch, startSearch } from "./search.js";
import { openTalk, startTalk } from "./talk.js";

const TABS = ["members", "reports", "policy", "search"];

/** Show a group until the signal. */
export function openGroup(group, signal) {
  const title = byId("group-title");
  title.textContent = group;
  title.focus({ preventScroll: true });
  openTalk(group, signal);
  openMembers(group, signal);
  openReports(group, signal);
  openPolicy(group, signal);
  openSearch(group, signal);
}

function choose(chosen) {
  for (const name of TABS) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === chosen));
    tab.tabIndex = name === chosen ? 0 : -1;
    byId(name).hidden = name !== chosen;
  }
}

/** Show the search, and put the keyboard there. */
export function goToSearch() {
  choose("search");
  byId("search-text").focus();
}

function onTabKey(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const at = TABS.findIndex((name) => byId(`tab-${name}`) === event.currentTarget);
  const next = TABS[(at + step + TABS.length) % TABS.length];
  choose(next);
  byId(`tab-${next}`).focus();
}

export function startGroup() {
  for (const name of TABS) {
    byId(`tab-${name}`).addEventListener("click", () => choose(name));
    byId(`tab-${name}`).addEventListener("keydown", onTabKey);
  }
  choose(TABS[0]);
  startTalk();
  startMembers();
  startReports();
  startPolicy();
  startSearch();
}
