// A group chat on ws and ioredis: what one writes by hand on Node.
//
// ws://HOST:PORT/group/chat/{group}/{user}/{token}. The greeting comes first, then each message as
// it is in Redis. What a member says goes to Redis in one round trip, by a script that stores and
// publishes it; every process that has members of the group hears it from there.
"use strict";

const http = require("node:http");
const { WebSocketServer } = require("ws");
const { append, connectRedis, listKey, serve } = require("./shared.js");

const GREETING_MESSAGES = 50;
const MAX_MESSAGE_BYTES = 65536;
const MAX_WAITING_BYTES = 1048576;
const PING_MILLISECONDS = 25000;
const PATH = /^\/group\/chat\/([^/]+)\/([^/]+)\/[^/]+$/;
const AS_TEXT = { binary: false };

const redis = connectRedis();
const subscriber = redis.duplicate();
subscriber.on("error", (error) => console.error(`redis: ${error.message}`));

/** The groups with members here, by channel. */
const groups = new Map();
const channelOf = (group) => `mq:${group}`;

function openGroup(channel) {
  const group = { members: new Set(), subscribed: subscriber.subscribe(channel) };
  groups.set(channel, group);
  return group;
}

function leave(channel, group, member) {
  group.members.delete(member);
  if (group.members.size === 0 && groups.get(channel) === group) {
    groups.delete(channel);
    subscriber.unsubscribe(channel);
  }
}

function deliver(member, message) {
  if (member.early !== null) {
    member.early.push(message);
  } else if (member.socket.bufferedAmount > MAX_WAITING_BYTES) {
    member.socket.terminate();
  } else {
    member.socket.send(message, AS_TEXT);
  }
}

subscriber.on("messageBuffer", (channel, message) => {
  const group = groups.get(channel.toString());
  if (group !== undefined) {
    for (const member of group.members) deliver(member, message);
  }
});

/** Greet a member, then give it what was said meanwhile. */
async function greet(member, group, name) {
  await group.subscribed;
  const [[, list], [, total]] = await redis
    .multi()
    .lrange(listKey(name), -GREETING_MESSAGES, -1)
    .llen(listKey(name))
    .exec();
  member.socket.send(`{"list":[${list.join(",")}],"total":${total}}`);
  const newest = list.length > 0 ? JSON.parse(list[list.length - 1]).ts : 0;
  const { early } = member;
  member.early = null;
  for (const message of early) {
    if (JSON.parse(message).ts > newest) deliver(member, message);
  }
}

function enter(socket, name, user) {
  const channel = channelOf(name);
  const group = groups.get(channel) ?? openGroup(channel);
  const member = { socket, early: [] };
  const fail = (error) => {
    console.error(error.message);
    socket.close(1013);
  };
  group.members.add(member);
  socket.isAlive = true;
  socket.on("pong", () => (socket.isAlive = true));
  socket.on("error", () => socket.terminate());
  socket.on("close", () => leave(channel, group, member));
  socket.on("message", (text, isBinary) => {
    if (isBinary) socket.close(1003);
    else append(redis, name, user, text.toString(), channel).catch(fail);
  });
  greet(member, group, name).catch(fail);
}

const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: false,
  maxPayload: MAX_MESSAGE_BYTES,
});

setInterval(() => {
  for (const socket of sockets.clients) {
    if (socket.isAlive) {
      socket.isAlive = false;
      socket.ping();
    } else {
      socket.terminate();
    }
  }
}, PING_MILLISECONDS);

const server = http.createServer((_request, response) => response.writeHead(404).end());
server.on("upgrade", (request, stream, head) => {
  const found = PATH.exec(request.url);
  if (found === null) {
    stream.end("HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n");
    return;
  }
  const [name, user] = found.slice(1).map(decodeURIComponent);
  sockets.handleUpgrade(request, stream, head, (socket) => enter(socket, name, user));
});
serve(server, ["ws", "ioredis"]);
