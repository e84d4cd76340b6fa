// The tab "Raw": one WebSocket to a chat or a group list, and a log of everything on it.

import {
  byId, make, nameOf, onSubmit, remember, remembered, sendOnEnter, verbatim,
} from "./dom.js";
import { addTexts, hasText, hint, onTranslate, say } from "./language.js";

const LOG_ENTRIES = 1000;
const FLUSH_MS = 30;
const LOGIN_TIMEOUT_MS = 15_000;

addTexts({
  en: {
    settings: "Connection",
    kind: "Socket",
    kindChat: "Group chat",
    kindList: "My groups (list)",
    group: "Group",
    user: "User",
    token: "Token",
    address: "Address",
    addressHelp: "Made of the group, user and token; you may also edit it by hand.",
    connect: "Connect",
    disconnect: "Disconnect",
    password: "Password",
    login: "Log in",
    loginHelp: "Asks the server for this user's token. Only needed where tokens are checked.",
    log: "Log",
    raw: "Raw text",
    clear: "Clear",
    logEmpty: "Nothing yet. Connect, then send a message.",
    message: "Message",
    messageHint: "Message. Enter sends, Shift+Enter starts a new line",
    listHint: "The group list only listens; a message sent here reaches nobody",
    send: "Send",
    idle: "Not connected",
    connecting: "Connecting…",
    connected: "Connected",
    closing: "Closing…",
    closed: "Closed ({code})",
    closedReason: "Closed ({code}, {reason})",
    badAddress: "Not a usable address: {error}",
    labelSent: "sent",
    labelReceived: "received",
    labelOpened: "opened",
    labelClosed: "closed",
    labelNote: "note",
    binary: "binary frame, {bytes} bytes",
    greeting: "Greeting: the latest {shown} of {total} messages",
    greetingEmpty: "Greeting: no messages in this group yet",
    groups: "Groups of this user: {count}",
    groupLine: "Group {group}",
    groupTotal: "messages: {total}",
    groupUnknown: "A group without messages",
    loginNeeded:
      "440: the server checks tokens, and this one is not valid for user {user}. Log in for a " +
      "token, then connect again. By other means: POST userId and password as form data to " +
      "/user/login; “msg” in the answer is the token.",
    loginGo: "Go to log in",
    loginDone: "Logged in as user {user}. The token is in its field; connect to use it.",
    loginRefused: "Login refused: {code} {reason}",
    loginFailed: "Login failed, no answer from {url}: {error}",
    notMember:
      "User {user} is not a member of group {group}, and this server lets nobody in unasked " +
      "(auto_join is off). Join first: POST groupId as form data to /user/joinGroup, with the " +
      "headers userId and token.",
    close1001: "The server is going away, perhaps to restart. Connect again in a moment.",
    close1006: "The connection broke without a goodbye: the network, a proxy, or the server.",
    close1009: "The message was larger than the server accepts.",
    close1011: "The server ran into an error of its own; its log says more.",
    close1012: "The server is restarting. Connect again in a moment.",
    close1013: "The server is too busy. Try again later.",
    neverOpened:
      "Nothing answered at this address, or the server refused it: a wrong path, an id it does " +
      "not accept, or an origin it does not allow.",
  },
  zh: {
    settings: "连接",
    kind: "连接类型",
    kindChat: "群组聊天室",
    kindList: "我的群组列表",
    group: "群组 ID",
    user: "用户 ID",
    token: "令牌",
    address: "地址",
    addressHelp: "由群组、用户和令牌拼成，也可以直接修改。",
    connect: "连接",
    disconnect: "断开",
    password: "密码",
    login: "登录",
    loginHelp: "向服务端获取该用户的令牌。只有服务端开启令牌验证时才需要。",
    log: "日志",
    raw: "原始文本",
    clear: "清空",
    logEmpty: "暂无内容。请先连接，再发送消息。",
    message: "消息",
    messageHint: "输入消息，Enter 发送，Shift+Enter 换行",
    listHint: "群组列表连接只用于接收，在此发送的消息不会送达任何人",
    send: "发送",
    idle: "未连接",
    connecting: "正在连接…",
    connected: "已连接",
    closing: "正在断开…",
    closed: "已断开（{code}）",
    closedReason: "已断开（{code}，{reason}）",
    badAddress: "地址不可用：{error}",
    labelSent: "发送",
    labelReceived: "收到",
    labelOpened: "打开",
    labelClosed: "关闭",
    labelNote: "提示",
    binary: "二进制帧，{bytes} 字节",
    greeting: "欢迎帧：共 {total} 条消息，以下是最新的 {shown} 条",
    greetingEmpty: "欢迎帧：该群组还没有消息",
    groups: "该用户加入的群组：{count} 个",
    groupLine: "群组 {group}",
    groupTotal: "共 {total} 条消息",
    groupUnknown: "没有消息的群组",
    loginNeeded:
      "440：服务端开启了令牌验证，用户 {user} 的令牌无效。请登录获取令牌后重新连接。" +
      "也可以用表单向 /user/login 提交（POST）userId 和 password，返回的 msg 即为令牌。",
    loginGo: "去登录",
    loginDone: "用户 {user} 已登录，令牌已填好，请连接。",
    loginRefused: "登录被拒绝：{code} {reason}",
    loginFailed: "登录失败，{url} 没有应答：{error}",
    notMember:
      "用户 {user} 不是群组 {group} 的成员，而服务端关闭了自动加群（auto_join）。请先加群：" +
      "用表单向 /user/joinGroup 提交（POST）groupId，请求头带上 userId 和 token。",
    close1001: "服务端正在下线，可能是重启。请稍后重新连接。",
    close1006: "连接异常中断：可能是网络、代理或服务端的问题。",
    close1009: "消息超过了服务端允许的大小。",
    close1011: "服务端内部出错，详见服务端日志。",
    close1012: "服务端正在重启，请稍后重新连接。",
    close1013: "服务端繁忙，请稍后再试。",
    neverOpened: "该地址没有应答，或被服务端拒绝：路径有误、ID 不被接受，或来源（Origin）不被允许。",
  },
});

const address = byId("address");
const fields = { group: byId("group"), user: byId("user"), token: byId("token") };
const kind = byId("kind");
const log = byId("log");
const message = byId("message");
const password = byId("password");
const status = byId("status");
const buttons = { connect: byId("connect"), disconnect: byId("disconnect"), send: byId("send") };

// --- The address and the fields it is made of ---

const ADDRESS = /^(wss?:\/\/[^?#]*?)\/group\/(?:chat\/([^/?#]*)|list)\/([^/?#]*)\/([^/?#]*)$/i;

let base = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}`;

function composeAddress() {
  const { group, user, token } = fields;
  const place = kind.value === "chat" ? `chat/${encodeURIComponent(group.value)}` : "list";
  const who = `${encodeURIComponent(user.value)}/${encodeURIComponent(token.value)}`;
  address.value = `${base}/group/${place}/${who}`;
  followKind();
}

// The other way round, after an edit by hand. An address of another shape leaves the fields alone.
function readAddress() {
  const found = ADDRESS.exec(address.value.trim());
  if (!found) return;
  let values;
  try {
    values = found.slice(2).map((part) => part && decodeURIComponent(part));
  } catch {
    return; // a stray percent sign, in the middle of an edit
  }
  const [group, user, token] = values;
  base = found[1];
  kind.value = group === undefined ? "list" : "chat";
  if (group !== undefined) fields.group.value = group;
  fields.user.value = user;
  fields.token.value = token;
  followKind();
}

function followKind() {
  fields.group.disabled = kind.value === "list";
  hint(message, kind.value === "list" ? "listHint" : "messageHint");
}

// --- The log ---

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
  hourCycle: "h23",
});
const calendar = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

let waiting = [];
let flushTimer = null;

function timeElement(date, format) {
  const element = make("time", "", format.format(date));
  element.dateTime = date.toISOString();
  return element;
}

function writeLog(direction, ...parts) {
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

function note(key, values, ...more) {
  writeLog("Note", say(make("p"), key, values), ...more);
}

// --- Frames, made readable ---

const isObject = (value) => typeof value === "object" && value !== null;
const isMessage = (value) => isObject(value) && "userId" in value && typeof value.info === "string";

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function messageLine(chat, ownUser) {
  const user = String(chat.userId);
  const line = make("div", "said", nameOf(user), verbatim("text", chat.info, "span"));
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
  go.addEventListener("click", () => password.focus());
  return [say(make("p", "explain"), "loginNeeded", { user }), go];
}

function logFrame(data, ownUser) {
  if (typeof data !== "string") {
    writeLog("Received", say(make("p"), "binary", { bytes: data.byteLength }));
    return;
  }
  const lines = data === "440" ? loginNotice(ownUser) : readable(data, ownUser);
  // The raw text can only be hidden where something else says the same.
  const raw = verbatim(lines.length ? "raw" : "plain", data);
  writeLog("Received", ...lines, raw);
}

// --- The socket ---

let socket = null;

function showState(state, key = state, values) {
  say(status, key, values);
  status.dataset.state = state;
  buttons.connect.disabled = state === "connecting" || state === "connected" || state === "closing";
  buttons.disconnect.disabled = state !== "connecting" && state !== "connected";
  buttons.send.disabled = state !== "connected";
}

function connect() {
  if (socket) return;
  const url = address.value.trim();
  try {
    socket = new WebSocket(url);
  } catch (error) {
    note("badAddress", { error: error.message });
    showState("idle");
    return;
  }
  socket.binaryType = "arraybuffer";
  showState("connecting");
  const visit = { url, group: fields.group.value, user: fields.user.value, opened: false };
  socket.addEventListener("open", () => onOpen(visit));
  socket.addEventListener("message", ({ data }) => logFrame(data, visit.user));
  socket.addEventListener("close", (event) => onClose(event, visit));
}

function onOpen(visit) {
  visit.opened = true;
  writeLog("Opened", verbatim("plain", visit.url));
  showState("connected");
  // A button that gets disabled drops the focus of whoever pressed it.
  if ([document.body, buttons.connect].includes(document.activeElement)) message.focus();
}

function onClose({ code, reason }, visit) {
  const asked = status.dataset.state === "closing";
  const key = reason ? "closedReason" : "closed";
  const explanation = asked ? null : explainClose(code, reason, visit);
  const parts = [say(make("p"), key, { code, reason })];
  if (explanation) parts.push(say(make("p", "explain"), explanation, visit));
  writeLog("Closed", ...parts);
  socket = null;
  showState("closed", key, { code, reason });
  if ([document.body, buttons.disconnect].includes(document.activeElement)) buttons.connect.focus();
}

function explainClose(code, reason, visit) {
  if (code === 1006 && !visit.opened) return "neverOpened";
  if (code === 1008 && reason === "not a member") return "notMember";
  const key = `close${code}`;
  return hasText(key) ? key : null;
}

function disconnect() {
  showState("closing");
  socket.close(1000);
}

function send() {
  if (socket?.readyState === WebSocket.OPEN && message.value) {
    socket.send(message.value);
    writeLog("Sent", verbatim("plain", message.value));
    message.value = "";
  }
  message.focus();
}

// --- Login ---

async function logIn() {
  const user = fields.user.value;
  const url = `${base.replace(/^ws/i, "http")}/user/login`;
  const body = new FormData();
  body.set("userId", user);
  body.set("password", password.value);
  byId("login").disabled = true;
  try {
    const signal = AbortSignal.timeout(LOGIN_TIMEOUT_MS);
    const response = await fetch(url, { method: "POST", body, signal });
    takeLogin(parse(await response.text()) ?? { code: response.status, msg: "" }, user);
  } catch (error) {
    note("loginFailed", { url, error: error.message });
  } finally {
    byId("login").disabled = false;
  }
}

function takeLogin({ code, msg }, user) {
  if (code !== 200 || typeof msg !== "string") {
    note("loginRefused", { code, reason: msg });
    return;
  }
  fields.token.value = msg;
  password.value = "";
  composeAddress();
  note("loginDone", { user });
  if (!buttons.connect.disabled) buttons.connect.focus();
}

// --- The page ---

function showRaw() {
  log.classList.toggle("tidy", !byId("raw").checked);
  remember("raw", byId("raw").checked ? "shown" : "hidden");
  keepFollowing();
}

/** Begin; the page is translated afterwards. */
export function startRaw() {
  fields.user.value = String(1 + Math.floor(Math.random() * 999));
  byId("raw").checked = remembered("raw") !== "hidden";
  showState("idle");
  composeAddress();
  showRaw();
  for (const field of Object.values(fields)) field.addEventListener("input", composeAddress);
  kind.addEventListener("change", composeAddress);
  address.addEventListener("input", readAddress);
  sendOnEnter(message, send);
  onSubmit("connection", connect);
  onSubmit("composer", send);
  onSubmit("account", logIn);
  buttons.disconnect.addEventListener("click", disconnect);
  byId("clear").addEventListener("click", clearLog);
  byId("raw").addEventListener("change", showRaw);
  log.addEventListener("scroll", noticeScroll);
  new ResizeObserver(keepFollowing).observe(log);
  onTranslate(() => {
    flushLog(); // what waits is translated with the page
    queueMicrotask(keepFollowing);
  });
}
