// The driver in Node: `node node.js json|protobuf`, with NODE_PATH where the packages are.

"use strict";

const readline = require("node:readline");
const WebSocket = require("ws");
const { makeDriver } = require("./driver.js");

const encoding = process.argv[2];
const library = require(encoding === "protobuf" ? "centrifuge/build/protobuf" : "centrifuge");
const carryOut = makeDriver(library, encoding, { websocket: WebSocket }, (event) =>
  process.stdout.write(JSON.stringify(event) + "\n"),
);
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => carryOut(JSON.parse(line)))
  .on("close", () => process.exit(0));
