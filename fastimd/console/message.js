// A message as a row.

import { aboutUser } from "./acts.js";
import { make, nameOf, verbatim } from "./dom.js";
import { label, say, sayTime } from "./language.js";

/** By what a message is known; one that another program has dated wrongly has no offset. */
export const tsOf = ({ offset, time }) => offset || time || 0;

export const authorOf = ({ info }) => info?.user ?? "";

/** What is shown of a message's data. */
export const textOf = ({ data }) => (typeof data === "string" ? data : JSON.stringify(data));

/** The row of a message of a group, with the way to what can be done about it. */
export function messageRow(group, message) {
  const user = authorOf(message);
  const ts = tsOf(message);
  const text = textOf(message);
  const more = label(make("button", "quiet more", "⋯"), "actsOf", { text: text.slice(0, 60) });
  more.type = "button";
  more.addEventListener("click", () => aboutUser({ group, user, ts, text }));
  const tags = Object.entries(message.tags ?? {}).map(([name, value]) => verbatim("tag", `${name}=${value}`, "span"));
  const head = make("div", "head", authorName(user), sayTime(make("time"), ts, "stamp"), ...tags, more);
  return make("li", "message", head, verbatim("text", text, "p"));
}

/** A user's name, or that it is the server's own. */
export function authorName(user) {
  return user ? nameOf(user) : say(make("b", "server"), "theServer");
}
