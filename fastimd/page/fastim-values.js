// What comes from outside: addresses and ids from the page, which are judged, and messages from the
// server, which are read.

import { FastIMError } from "./fastim-errors.js";

/**
 * @typedef {object} Message  one message; groupId, userId and ts together name it
 * @property {string} groupId
 * @property {string} userId  its author, "" for the server itself
 * @property {string} info    the text
 * @property {number} ts      milliseconds since the epoch, by the server; unique within the group
 * @property {Record<string, string>} [tags]  marks that the server has given it, on the live wire
 */

/** The address that paths are put behind. */
export function baseOf(url) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    throw new FastIMError(FastIMError.NOT_ACCEPTED, `not a URL: ${url}`);
  }
  const protocol = parsed.protocol.replace(/^ws/, "http");
  if (!/^https?:$/.test(protocol)) {
    throw new FastIMError(FastIMError.NOT_ACCEPTED, `neither http(s): nor ws(s): ${url}`);
  }
  return `${protocol}//${parsed.host}${parsed.pathname}`.replace(/\/+$/, "");
}

// As the server judges ids, so far as a browser can: whether a handshake was refused for one it never
// learns. "." and ".." cannot stand in a path.
export function idOf(name, value) {
  const id = typeof value === "number" ? String(value) : value;
  const isId = typeof id === "string" && id.trim() === id && /^.{1,128}$/u.test(id) &&
    !/(?! )[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Z}\ufffd]/u.test(id) && !/^\.\.?$/.test(id);
  if (isId) return id;
  const rule = `${name} must be 1 to 128 printable characters, no spaces at the ends, no "." or ".."`;
  throw new FastIMError(FastIMError.NOT_ACCEPTED, rule);
}

/** The object or array that a frame has; null if it has none. */
export function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

export function parseMessage(text) {
  return asMessage(JSON.parse(text));
}

// Fast-IM wrote some ids as numbers.
export function asMessage({ groupId, userId, info, ts }) {
  return { groupId: String(groupId), userId: String(userId), info: String(info), ts: Number(ts) };
}

/** A publication of the live wire as a message. What was published as JSON is its text here. */
export function messageOf(groupId, { data, info, offset, time, tags }) {
  const text = typeof data === "string" ? data : JSON.stringify(data);
  const message = { groupId, userId: info?.user ?? "", info: text, ts: offset ?? time ?? 0 };
  return tags ? Object.assign(message, { tags }) : message;
}
