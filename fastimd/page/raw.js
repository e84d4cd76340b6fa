// The tab "Raw": one WebSocket to a chat or a group list, and a log of everything on it. raw-log.js is
// the log, raw-frames.js makes frames readable for it.

import "./raw-words.js";
import { byId, make, onSubmit, sendOnEnter, verbatim } from "./dom.js";
import { inLanguage } from "./fastim.js";
import { hasText, hint, say } from "./language.js";
import { logFrame, parse } from "./raw-frames.js";
import { note, startLog, writeLog } from "./raw-log.js";

const LOGIN_TIMEOUT_MS = 15_000;

const address = byId("address");
const fields = { group: byId("group"), user: byId("user"), token: byId("token") };
const kind = byId("kind");
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
    note("loginRefused", { code, reason: (language) => inLanguage(String(msg), language) });
    return;
  }
  fields.token.value = msg;
  password.value = "";
  composeAddress();
  note("loginDone", { user });
  if (!buttons.connect.disabled) buttons.connect.focus();
}

// --- The page ---

/** Begin; the page is translated afterwards. */
export function startRaw() {
  fields.user.value = String(1 + Math.floor(Math.random() * 999));
  startLog();
  showState("idle");
  composeAddress();
  for (const field of Object.values(fields)) field.addEventListener("input", composeAddress);
  kind.addEventListener("change", composeAddress);
  address.addEventListener("input", readAddress);
  sendOnEnter(message, send);
  onSubmit("connection", connect);
  onSubmit("composer", send);
  onSubmit("account", logIn);
  buttons.disconnect.addEventListener("click", disconnect);
}
