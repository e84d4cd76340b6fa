// What both Node servers need: where they listen, their Redis, and how a message gets into it.
"use strict";

const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const Redis = require("ioredis");

const EXPIRY_SECONDS = 604800;

/** A Redis connection that has the command `append`. */
function connectRedis() {
  const redis = new Redis(process.env.REDIS_URL);
  redis.on("error", (error) => console.error(`redis: ${error.message}`));
  redis.defineCommand("append", {
    numberOfKeys: 2,
    lua: readFileSync(join(__dirname, "append.lua"), "utf8"),
  });
  return redis;
}

const listKey = (group) => `gml:${group}`;
const newestKey = (group) => `bench:newest:${group}`;

/**
 * Store a message, and publish it if there is a channel.
 * Messages are stored in the order of the calls. Resolves to the ts, as digits.
 */
function append(redis, group, user, info, channel) {
  const start = `{"groupId":${JSON.stringify(group)},"userId":${JSON.stringify(user)},"info":${JSON.stringify(info)},"ts":`;
  return redis.append(listKey(group), newestKey(group), start, EXPIRY_SECONDS, channel);
}

/** Listen on loopback, and print the versions of what is used. */
function serve(server, packages) {
  const versions = packages.map((name) => `${name} ${require(`${name}/package.json`).version}`);
  server.listen(Number(process.env.PORT), "127.0.0.1", 4096, () => {
    console.log(`version: ${[`node ${process.version}`, ...versions].join(", ")}`);
  });
}

module.exports = { append, connectRedis, listKey, serve };
