// The tab "Chat": a small chat client on fastim.js. This module logs in, keeps the groups that were
// opened, and shows one of them; groups.js is the list at the side, conversation.js a group's messages.

import "./chat-words.js";
import { Conversation } from "./conversation.js";
import { byId, onSubmit, remember, remembered, sendOnEnter } from "./dom.js";
import { FastIM, FastIMError, inLanguage } from "./fastim.js";
import { GroupsView } from "./groups.js";
import { hush, label, phrase, say } from "./language.js";
import { Moderation } from "./moderation.js";
import { RoomView } from "./room.js";

const NOT_MEMBER = "not a member";
const CLOSED = {
  "kicked": "chatKicked",
  "put out": "chatPutOut",
  "not allowed": "chatNotAllowed",
  [NOT_MEMBER]: "chatNotMember",
  "private group": "chatPrivate",
  "too many groups": "chatTooMany",
};
const TOO_MANY_WAIT = "too many texts wait for the connection";
const HEARD_MS = 1000;

const panel = byId("chat-panel");
const words = byId("words");
const scroller = byId("scroller");
const newer = byId("newer");

let im = null;
let isSigningIn = false;
let groups = null;
let shown = null; // the conversation in sight
const moderation = new Moderation();
const room = new RoomView((user) => moderation.ask({ user }));
let conversations = new Map();
let heardAt = 0;

// --- Login ---

async function signIn() {
  if (isSigningIn) return;
  isSigningIn = true; // a disabled button would lose the focus
  const user = byId("sign-in-user").value.trim();
  const server = byId("sign-in-server").value.trim();
  hush(byId("sign-in-failure"));
  try {
    // The same user at the same server goes on where they were.
    const isSame = im !== null && im.userId === user && im.server === server;
    const next = isSame ? im : Object.assign(new FastIM({ url: server, userId: user }), { server });
    await next.login(byId("sign-in-password").value);
    remember("user", user);
    forgetPassword(user, server);
    if (!isSame) begin(next);
    hush(byId("room-failure"));
    show(shown ? "room" : "groups");
    byId("me").focus();
    followAddress();
  } catch (error) {
    fail("sign-in-failure", error);
  } finally {
    isSigningIn = false;
  }
}

// An emptied field would be marked as one that was left out; a reset one is not.
function forgetPassword(user, server) {
  byId("sign-in").reset();
  byId("sign-in-user").value = user;
  byId("sign-in-server").value = server;
}

function begin(next) {
  end();
  im = next;
  byId("me").textContent = im.userId;
  im.addEventListener("login", askLogin);
  const list = im.watchGroups();
  groups = new GroupsView(byId("groups"), openGroup);
  list.addEventListener("groups", ({ detail }) => {
    groups.update(detail);
    byId("no-groups").hidden = !groups.isEmpty;
    showTotal();
  });
  list.addEventListener("state", showState);
}

function end() {
  leaveRoom();
  const ended = im;
  im = null;
  ended?.removeEventListener("login", askLogin);
  ended?.close();
  groups?.clear();
  byId("no-groups").hidden = false;
  hush(byId("join-failure"));
  conversations = new Map();
}

function askLogin() {
  if (panel.dataset.view === "login") return; // somebody types there
  say(byId("sign-in-note"), "chatLoginAgain");
  show("login");
  byId("sign-in-password").focus();
}

function signOut() {
  end();
  history.replaceState(null, "", location.pathname);
  say(byId("sign-in-note"), "chatLoginHelp");
  show("login");
  showState();
  byId("sign-in-password").focus();
}

// --- Groups ---

async function joinGroup() {
  const field = byId("join-group");
  const groupId = field.value.trim();
  if (!groupId) return;
  hush(byId("join-failure"));
  const joining = im;
  try {
    await joining.joinGroup(groupId);
    if (im !== joining) return; // logged out meanwhile
    if (field.value.trim() === groupId) field.value = ""; // else the next one is being typed
    openGroup(groupId);
    shown.group.reconnect(); // it was closed if it was for members only
  } catch (error) {
    fail("join-failure", error);
  }
}

function openGroup(groupId) {
  if (!conversations.has(groupId)) conversations.set(groupId, converse(im.join(groupId)));
  leaveRoom();
  shown = conversations.get(groupId);
  byId("room-title").textContent = groupId;
  words.value = shown.unsaid;
  groups.open(groupId);
  if (groupOfAddress() !== groupId) {
    history.pushState(null, "", `#group=${encodeURIComponent(groupId)}`);
  }
  show("room");
  room.enter(shown.group, im.userId);
  moderation.enter(shown.group);
  shown.enter();
  showRoom();
  words.focus();
}

function converse(group) {
  const conversation = new Conversation(group, im.userId, scroller);
  conversation.onFailure = (error) => fail("room-failure", error);
  conversation.onHear = hear;
  conversation.onMore = ({ userId, info, ts }) => moderation.ask({ user: userId, text: info, ts });
  conversation.onScroll = showNewer;
  group.addEventListener("state", showState);
  return conversation;
}

function leaveRoom() {
  if (shown) shown.unsaid = words.value;
  shown = null;
  room.leave();
  moderation.leave();
  scroller.replaceChildren();
  hush(byId("room-failure"));
  hush(byId("heard"));
}

function goBack() {
  const groupId = shown?.group.groupId;
  history.pushState(null, "", location.pathname);
  showGroups();
  groups.focus(groupId);
}

function showGroups() {
  leaveRoom();
  groups.open(null);
  show("groups");
  showRoom();
}

// The address says which group is in sight: "#group=ID", else none.
function groupOfAddress() {
  if (!location.hash.startsWith("#group=")) return "";
  try {
    return decodeURIComponent(location.hash.slice("#group=".length));
  } catch {
    return ""; // a stray percent sign
  }
}

function followAddress() {
  if (panel.dataset.view === "login") return;
  const groupId = groupOfAddress();
  try {
    if (!groupId) showGroups();
    else if (groupId !== shown?.group.groupId) openGroup(groupId);
  } catch (error) {
    showGroups();
    fail("join-failure", error);
  }
}

async function connectAgain() {
  hush(byId("room-failure"));
  const group = shown?.group; // another may be in sight when it has joined
  try {
    im.watchGroups().reconnect();
    if (group?.reason === NOT_MEMBER) await im.joinGroup(group.groupId);
    group?.reconnect();
  } catch (error) {
    fail("room-failure", error);
  }
}

// --- What is said ---

function send() {
  if (!shown || !words.value.trim()) return;
  hush(byId("room-failure"));
  try {
    shown.send(words.value);
    words.value = "";
  } catch (error) {
    fail("room-failure", error);
  }
  words.focus();
}

// Not each message of a busy group: who hears the page would hear nothing else.
function hear(conversation, { userId, info }) {
  const now = Date.now();
  if (conversation !== shown || userId === im.userId || now - heardAt < HEARD_MS) return;
  heardAt = now;
  byId("heard").textContent = phrase("chatHeard", { user: userId || phrase("chatNobody"), text: info });
}

function showNewer() {
  newer.hidden = !shown?.unseen;
  if (newer.hidden) return;
  newer.textContent = `↓ ${shown.unseen}`;
  label(newer, "chatNewer", { count: shown.unseen });
}

// --- What is shown ---

function show(view) {
  panel.dataset.view = view;
  panel.classList.toggle("roomless", shown === null);
}

function showRoom() {
  showState();
  showTotal();
  showNewer();
}

function showTotal() {
  const count = shown && groups.totalOf(shown.group.groupId);
  const note = byId("room-note");
  note.hidden = count === null;
  if (!note.hidden) say(note, "chatTotal", { count });
}

function linkInSight() {
  return shown?.group ?? im?.watchGroups();
}

function showState() {
  const link = linkInSight();
  const [key, values] = wordsFor(link);
  say(byId("chat-state"), key, values);
  byId("chat-status").dataset.state = link?.state ?? "idle";
  showSeconds();
  say(byId("reconnect"), link?.reason === NOT_MEMBER ? "chatJoinThis" : "chatReconnect");
  byId("reconnect").hidden = !isClosed(shown?.group);
  byId("list-reconnect").hidden = !isClosed(im?.watchGroups());
}

// The seconds are not read out: they stand beside what is live.
function showSeconds() {
  const link = linkInSight();
  const seconds = byId("chat-seconds");
  seconds.hidden = link?.state !== "waiting";
  if (seconds.hidden) return;
  say(seconds, "chatSeconds", { seconds: Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000)) });
}

function wordsFor(link) {
  if (!link) return ["chatIdle"];
  if (link.state === "waiting") return [link.reason === "no socket" ? "chatNoSocket" : "chatWaiting"];
  if (link.state === "connecting") return ["chatConnecting"];
  if (link.state === "connected") return ["chatConnected"];
  const reason = (language) => inLanguage(link.reason, language);
  return [CLOSED[link.reason] ?? (link.reason ? "chatClosedFor" : "chatClosed"), { reason }];
}

// After a lost token a login opens it again.
function isClosed(link) {
  return link?.state === "closed" && link.reason !== "login required";
}

function fail(id, error) {
  if (!(error instanceof FastIMError)) throw error;
  const { code, msg, isTemporary } = error;
  const element = byId(id);
  const reason = (language) => inLanguage(msg, language);
  if (code === FastIMError.NO_ANSWER) say(element, "chatNoServer");
  else if (msg === TOO_MANY_WAIT) say(element, "chatTooManyWait");
  else if (code === FastIMError.NOT_ACCEPTED) say(element, "chatNotAccepted", { msg });
  else if (code === 503 || isTemporary) say(element, "chatNotNow");
  else if (code < 500) say(element, "chatRefused", { reason });
  else say(element, "chatFailed", { code, reason });
}

/** Begin; the page is translated afterwards. */
export function startChat() {
  const user = remembered("user") ?? "";
  byId("sign-in-user").value = user;
  byId("sign-in-server").value = location.origin;
  onSubmit("sign-in", signIn);
  onSubmit("join", joinGroup);
  onSubmit("speak", send);
  sendOnEnter(words, send);
  words.addEventListener("input", () => words.value.trim() && shown?.group.type());
  byId("sign-out").addEventListener("click", signOut);
  byId("back").addEventListener("click", goBack);
  byId("reconnect").addEventListener("click", connectAgain);
  byId("list-reconnect").addEventListener("click", connectAgain);
  newer.addEventListener("click", () => {
    shown.followEnd();
    words.focus();
  });
  scroller.addEventListener("scroll", () => shown?.noticeScroll());
  document.addEventListener("visibilitychange", () => shown?.noticeRead());
  new ResizeObserver(() => shown?.noticeSize()).observe(scroller);
  addEventListener("popstate", followAddress); // links to "#group=ID" on this page, too
  setInterval(showSeconds, 1000);
  show("login");
  showState();
  byId(user ? "sign-in-password" : "sign-in-user").focus();
}
