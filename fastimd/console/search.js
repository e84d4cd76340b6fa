// Looking for messages of a group by user and text.

import { acted, showFailure } from "./acts.js";
import { call, may } from "./api.js";
import { byId, onSubmit } from "./dom.js";
import { say } from "./language.js";
import { clearList, showList, walkByKeys } from "./list.js";
import { messageRow, tsOf } from "./message.js";

const list = byId("found-list");
const found = byId("found");
const further = byId("further");

let state = null;

/** Begin in another group. */
export function openSearch(group, signal) {
  state = { group, query: null, messages: [], before: 0, signal };
  clearList(list);
  byId("search-form").reset();
  byId("search-form").hidden = !may("search");
  say(found, may("search") ? "empty" : "denied");
  further.hidden = true;
  acted.addEventListener("acted", () => void again(), { signal });
}

async function look(query, before) {
  const here = state;
  say(found, "searching");
  try {
    const page = await call("search", { channel: here.group, ...query, before }, here.signal);
    if (here !== state) return;
    here.query = query;
    here.before = page.before;
    here.messages = before ? [...here.messages, ...page.publications] : page.publications;
  } catch (error) {
    if (here !== state) return;
    say(found, "empty");
    showFailure(error);
    return;
  }
  showList(list, here.messages, (each) => `${tsOf(each)} ${each.info?.user ?? ""}`, (each) => messageRow(here.group, each));
  further.hidden = !here.before;
  say(found, here.messages.length ? "foundCount" : "foundNone", { count: here.messages.length });
}

/** What was found may be gone. */
async function again() {
  if (state.query && state.messages.length) await look(state.query, 0);
}

export function startSearch() {
  walkByKeys(list);
  onSubmit("search-form", () => {
    clearList(list);
    state.messages = [];
    void look({ user: byId("search-user").value.trim(), text: byId("search-text").value }, 0);
  });
  further.addEventListener("click", () => void look(state.query, state.before));
}
