// The console: who is here, which view is shown, and the keys that hold everywhere.

import "./moderation-words.js";
import "./words.js"; // before all that says something
import { Failure, hasKey, may, onSignedOut, signIn, signOut } from "./api.js";
import { byId, onSubmit } from "./dom.js";
import { goToSearch, openGroup, startGroup } from "./group.js";
import { openGroups, startGroups } from "./group-list.js";
import { hush, makeSwitch, say, translatePage } from "./language.js";
import { openPerson, startPerson } from "./person.js";
import { showLink } from "./poll.js";
import { startOverview, watchDaemons } from "./overview.js";
import { startTheme } from "./theme.js";

const VIEWS = {
  "": { section: byId("overview"), tab: byId("to-overview"), open: () => {} },
  groups: { section: byId("groups"), tab: byId("to-groups"), open: openGroups },
  group: { section: byId("group"), tab: byId("to-groups"), open: (signal, name) => openGroup(name, signal) },
  user: { section: byId("user"), tab: byId("to-user"), open: (signal, name) => openPerson(name, signal) },
};
const LOCAL = ["localhost", "127.0.0.1", "[::1]"];

let session = null; // ends when the key is wrong, or another one is given
let view = null; // ends when another one is shown

/** Show what the address names. */
function show() {
  view?.abort();
  if (session === null) return;
  view = new AbortController();
  const [name, encoded = ""] = location.hash.replace(/^#\/?/, "").split("/");
  const shown = Object.hasOwn(VIEWS, name) ? VIEWS[name] : VIEWS[""];
  for (const each of Object.values(VIEWS)) {
    each.section.hidden = each !== shown;
    each.tab.removeAttribute("aria-current");
  }
  shown.tab.setAttribute("aria-current", "page");
  shown.open(view.signal, decoded(encoded));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function begin(key = undefined) {
  const { name } = await signIn(key);
  session?.abort();
  session = new AbortController();
  byId("sign-in").hidden = true;
  byId("views").hidden = false;
  byId("to-overview").hidden = !may("status");
  byId("sign-out").hidden = !hasKey();
  if (hasKey()) {
    hush(byId("who"));
    byId("who").textContent = name;
  } else {
    say(byId("who"), "operator");
  }
  showLink(null);
  watchDaemons(session.signal);
  const isLost = !may("status") && ["", "#", "#/"].includes(location.hash);
  if (isLost) location.replace("#/groups");
  else show();
}

/** Ask for a key. */
function end() {
  session?.abort();
  view?.abort();
  session = null;
  for (const { section } of Object.values(VIEWS)) section.hidden = true;
  byId("views").hidden = true;
  byId("sign-out").hidden = true;
  hush(byId("who"));
  byId("act").close();
  byId("sign-in").hidden = false;
  byId("plain-note").hidden = location.protocol === "https:" || LOCAL.includes(location.hostname);
  byId("link").dataset.state = "idle";
  say(byId("link-state"), "signedOut");
  byId("key").focus();
}

async function submitKey() {
  const field = byId("key");
  const failure = byId("sign-in-failure");
  hush(failure);
  try {
    await begin(field.value.trim());
    field.value = "";
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const cause = { 101: "wrongKey", 0: "unreachable" }[error.code] ?? "modRefused";
    say(failure, cause, { reason: error.message });
    field.select();
  }
}

/** Find out whether a key is needed; while nobody answers, again. */
async function start() {
  try {
    await begin();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (session === null && error.code !== 101) {
      showLink(error);
      setTimeout(start, 2000);
    }
  }
}

/** A slash goes to the field that finds things in the view. */
function onKey(event) {
  const isTyping = event.target.closest("input, textarea, select, dialog");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = [...document.querySelectorAll("[data-slash]")].find((each) => each.checkVisibility());
  if (!field && byId("group").hidden) return;
  event.preventDefault();
  if (field) field.focus();
  else goToSearch();
}

makeSwitch(byId("language"));
startTheme();
startOverview();
startGroups();
startGroup();
startPerson();
onSubmit("sign-in", () => void submitKey());
byId("sign-out").addEventListener("click", () => {
  signOut();
  end();
  void start();
});
onSignedOut(end);
window.addEventListener("hashchange", show);
document.addEventListener("keydown", onKey);
translatePage();
void start();
