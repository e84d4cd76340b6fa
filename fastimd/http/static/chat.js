// The tab "Chat": a small chat client on fastim.js. This module logs in, keeps the groups that were
// opened, and shows one of them; groups.js is the list at the side, conversation.js a group's messages.

import { Conversation } from "./conversation.js";
import { byId, onSubmit, recall, remember, sendOnEnter } from "./dom.js";
import { FastIM, FastIMError } from "./fastim.js";
import { GroupsView } from "./groups.js";
import { addTexts, phrase, say } from "./language.js";

addTexts({
  en: {
    chatLogin: "Log in",
    chatLoginHelp: "Any password will do, unless the server has a login hook.",
    chatLoginAgain: "The server no longer takes the token. Log in again.",
    chatUser: "User",
    chatPassword: "Password",
    chatServer: "Server",
    chatLogout: "Log out",
    chatGroups: "Groups",
    chatNoGroups: "No groups yet. Join one by its id.",
    chatJoinHint: "Group id",
    chatJoin: "Join",
    chatNowhere: "Pick a group, or join one.",
    chatBack: "Back to the groups",
    chatReconnect: "Connect again",
    chatMessages: "Messages",
    chatMessage: "Message",
    chatMessageHint: "Message",
    chatSend: "Send",
    chatTotal: "{total} messages",
    chatHeard: "{user}: {text}",
    chatIdle: "Not logged in",
    chatConnecting: "Connecting…",
    chatConnected: "Connected",
    chatWaiting: "Offline, trying again in {seconds} s",
    chatClosed: "Closed",
    chatKicked: "An operator closed the connection.",
    chatFlood: "Closed: too many messages in too short a time.",
    chatNotMember: "Only members may enter this group.",
    chatClosedFor: "Closed: {reason}",
    chatRefusedLogin: "Wrong user or password.",
    chatNoServer: "No answer from this server.",
    chatTooMany: "Too many messages wait for the connection.",
    chatRecallTooOld: "It is too late to recall this message.",
    chatRecallGone: "This message is gone already.",
    chatFailed: "The server says: {msg} ({code})",
  },
  zh: {
    chatLogin: "登录",
    chatLoginHelp: "服务端未配置登录钩子时，密码可以任意填写。",
    chatLoginAgain: "令牌已失效，请重新登录。",
    chatUser: "用户",
    chatPassword: "密码",
    chatServer: "服务器",
    chatLogout: "退出",
    chatGroups: "群组",
    chatNoGroups: "还没有群组，输入群组 ID 即可加入。",
    chatJoinHint: "群组 ID",
    chatJoin: "加入",
    chatNowhere: "请选择或加入一个群组。",
    chatBack: "返回群组列表",
    chatReconnect: "重新连接",
    chatMessages: "消息",
    chatMessage: "消息",
    chatMessageHint: "输入消息",
    chatSend: "发送",
    chatTotal: "共 {total} 条消息",
    chatHeard: "{user}：{text}",
    chatIdle: "未登录",
    chatConnecting: "正在连接…",
    chatConnected: "已连接",
    chatWaiting: "已离线，{seconds} 秒后重试",
    chatClosed: "已断开",
    chatKicked: "管理员断开了连接。",
    chatFlood: "已断开：短时间内发送的消息过多。",
    chatNotMember: "只有成员才能进入该群组。",
    chatClosedFor: "已断开：{reason}",
    chatRefusedLogin: "用户或密码错误。",
    chatNoServer: "该服务器没有应答。",
    chatTooMany: "等待发送的消息过多。",
    chatRecallTooOld: "已超过可撤回的时间。",
    chatRecallGone: "该消息已不存在。",
    chatFailed: "服务端返回：{msg}（{code}）",
  },
});

const CLOSED = { "kicked": "chatKicked", "flood": "chatFlood", "not a member": "chatNotMember" };
const MEANINGS = {
  登录失败: "chatRefusedLogin",
  无法撤回消息: "chatRecallTooOld",
  消息不存在: "chatRecallGone",
};
const HEARD_MS = 1000;

const panel = byId("chat-panel");
const words = byId("words");
const scroller = byId("scroller");
const newer = byId("newer");
const state = byId("chat-status");

let im = null;
let groups = null;
let shown = null; // the conversation in sight
let conversations = new Map();
let heardAt = 0;

// --- Login ---

async function signIn() {
  const user = byId("sign-in-user").value;
  const server = byId("sign-in-server").value.trim();
  fail("sign-in-failure", null);
  byId("sign-in-go").disabled = true;
  try {
    // The same user at the same server goes on where they were.
    const isSame = im !== null && im.userId === user && im.server === server;
    const next = isSame ? im : Object.assign(new FastIM({ url: server, userId: user }), { server });
    await next.login(byId("sign-in-password").value);
    byId("sign-in-password").value = "";
    remember("user", user);
    if (!isSame) begin(next);
    show(shown ? "room" : "groups");
    openFromAddress();
  } catch (error) {
    fail("sign-in-failure", error);
  } finally {
    byId("sign-in-go").disabled = false;
  }
}

function begin(next) {
  end();
  im = next;
  byId("me").textContent = im.userId;
  im.addEventListener("login", askLogin);
  const list = im.watchGroups();
  groups = new GroupsView(byId("groups"), im.userId, openGroup);
  list.addEventListener("groups", ({ detail }) => {
    groups.update(detail);
    byId("no-groups").hidden = !groups.isEmpty;
    showTotal();
  });
  list.addEventListener("state", showState);
}

function end() {
  im?.removeEventListener("login", askLogin);
  im?.close();
  im = null;
  groups?.clear();
  conversations = new Map();
  shown = null;
  scroller.replaceChildren();
}

function askLogin() {
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
  fail("join-failure", null);
  try {
    await im.joinGroup(groupId);
    field.value = "";
    openGroup(groupId);
  } catch (error) {
    fail("join-failure", error);
  }
}

function openGroup(groupId) {
  if (!conversations.has(groupId)) {
    const conversation = new Conversation(im.join(groupId), im.userId);
    conversation.onFailure = (error) => fail("room-failure", error);
    conversation.onHear = hear;
    conversation.onScroll = showNewer;
    conversation.group.addEventListener("state", showState);
    conversations.set(groupId, conversation);
  }
  if (shown) shown.unsaid = words.value;
  shown = conversations.get(groupId);
  scroller.replaceChildren(shown.element);
  shown.enter(scroller);
  byId("room-title").textContent = groupId;
  words.value = shown.unsaid;
  groups.open(groupId);
  fail("room-failure", null);
  history.replaceState(null, "", `#group=${encodeURIComponent(groupId)}`);
  show("room");
  showState();
  showTotal();
  showNewer();
  words.focus();
}

function openFromAddress() {
  if (!im?.token || !location.hash.startsWith("#group=")) return;
  let groupId;
  try {
    groupId = decodeURIComponent(location.hash.slice("#group=".length));
  } catch {
    return; // a stray percent sign
  }
  if (groupId && groupId !== shown?.group.groupId) openGroup(groupId);
}

function goBack() {
  show("groups");
  groups.focus(shown?.group.groupId);
}

// --- What is said ---

function send() {
  if (!shown || !words.value.trim()) return;
  fail("room-failure", null);
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
  byId("heard").textContent = phrase("chatHeard", { user: userId, text: info });
}

function showNewer() {
  newer.hidden = !shown?.unseen;
  if (!newer.hidden) newer.textContent = `↓ ${shown.unseen}`;
}

// --- What is shown ---

function show(view) {
  panel.dataset.view = view;
  panel.classList.toggle("roomless", shown === null);
}

function showTotal() {
  const total = shown && groups.totalOf(shown.group.groupId);
  const note = byId("room-note");
  note.hidden = total === null || total === undefined;
  if (!note.hidden) say(note, "chatTotal", { total });
}

function showState() {
  const link = shown?.group ?? im?.watchGroups();
  const isFinal = link?.state === "closed" && link.reason !== "login required";
  byId("reconnect").hidden = !(shown && isFinal);
  if (!link) {
    say(state, "chatIdle");
    state.dataset.state = "idle";
    return;
  }
  state.dataset.state = link.state === "waiting" ? "connecting" : link.state;
  if (link.state === "waiting") {
    say(state, "chatWaiting", { seconds: Math.max(0, Math.ceil((link.retryAt - Date.now()) / 1000)) });
  } else if (link.state === "closed") {
    const key = CLOSED[link.reason] ?? (link.reason ? "chatClosedFor" : "chatClosed");
    say(state, key, { reason: link.reason });
  } else {
    say(state, link.state === "connected" ? "chatConnected" : "chatConnecting");
  }
}

function fail(id, error) {
  const element = byId(id);
  if (error === null) {
    delete element.dataset.text;
    element.textContent = "";
    return;
  }
  if (!(error instanceof FastIMError)) throw error;
  const { code, msg } = error;
  if (code === FastIMError.NO_ANSWER) say(element, "chatNoServer");
  else if (code === FastIMError.NOT_ACCEPTED && id === "room-failure") say(element, "chatTooMany");
  else if (Object.hasOwn(MEANINGS, msg)) say(element, MEANINGS[msg]);
  else say(element, "chatFailed", { code, msg });
}

/** Begin; the page is translated afterwards. */
export function startChat() {
  byId("sign-in-user").value = recall("user") ?? "";
  byId("sign-in-server").value = location.origin;
  onSubmit("sign-in", signIn);
  onSubmit("join", joinGroup);
  onSubmit("speak", send);
  sendOnEnter(words, send);
  byId("sign-out").addEventListener("click", signOut);
  byId("back").addEventListener("click", goBack);
  byId("reconnect").addEventListener("click", () => shown?.group.reconnect());
  newer.addEventListener("click", () => {
    shown.followEnd();
    words.focus();
  });
  addEventListener("hashchange", openFromAddress);
  setInterval(() => state.dataset.state === "connecting" && showState(), 1000);
  show("login");
  showState();
}
