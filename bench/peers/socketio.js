// A group chat on Socket.IO and its Redis adapter: groups are rooms.
//
// What a client without the library sends (>) and gets (<), a text frame each:
//
//   GET /socket.io/?EIO=4&transport=websocket&group=G&user=U   the WebSocket handshake
//   < 0{"sid":"…","upgrades":[],"pingInterval":3600000,"pingTimeout":20000,"maxPayload":65536}
//   > 40                                  connect to the main namespace; need not wait for the 0
//   < 40{"sid":"…"}                       the socket is in its room now
//   > 42["say","TEXT"]                    TEXT as in JSON
//   < 42["message",{"groupId":"G","userId":"U","info":"TEXT","ts":1648368380132}]
//
// Every socket of the room gets it, the sender's too. The history is kept in Redis but not sent: a
// client gets nothing between the 40 and the first message. A 2 is a ping, to be answered with a 3;
// none comes within the first hour. A say is not acknowledged, as it asks for no acknowledgement.
"use strict";

const http = require("node:http");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { append, connectRedis, serve } = require("./shared.js");

const redis = connectRedis();
const subscriber = redis.duplicate();
subscriber.on("error", (error) => console.error(`redis: ${error.message}`));

const server = http.createServer();
const io = new Server(server, {
  adapter: createAdapter(redis, subscriber),
  transports: ["websocket"],
  serveClient: false,
  perMessageDeflate: false,
  maxHttpBufferSize: 65536,
  pingInterval: 3600000,
});

io.on("connection", (socket) => {
  const { group, user } = socket.handshake.query;
  socket.join(group);
  socket.on("say", async (info) => {
    try {
      const ts = await append(redis, group, user, info, "");
      io.to(group).emit("message", { groupId: group, userId: user, info, ts: Number(ts) });
    } catch (error) {
      console.error(error.message);
      socket.disconnect(true);
    }
  });
});

serve(server, ["socket.io", "@socket.io/redis-adapter", "ioredis"]);
