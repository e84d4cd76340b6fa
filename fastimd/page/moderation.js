// Reports, and what moderators do: one dialog about a user or a message, one about the room, and what
// is told of it.

import "./moderation-words.js";
import { byId, make, verbatim } from "./dom.js";
import { FastIMError, inLanguage } from "./fastim.js";
import { authorOf, hush, label, phrase, say, sayTime } from "./language.js";

const DURATIONS = [
  [600, "modMinutes"], [3_600, "modHour"], [86_400, "modDay"], [604_800, "modWeek"], [0, "modForGood"],
];
const MAX_REASON = 256;
const MAX_ID = 128;

const dialog = byId("act");
const notice = byId("room-notice");
const open = byId("moderate");

export class Moderation {
  #group = null;
    #stop = null;

  constructor() {
    open.addEventListener("click", () => void this.#showRoom());
  }

  /** A group comes into sight. */
  enter(group) {
    this.leave();
    this.#group = group;
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    const showRole = () => { open.hidden = !group.isModerator; };
    group.addEventListener("role", showRole, { signal });
    group.addEventListener("moderation", ({ detail }) => this.#tell(detail), { signal });
    showRole();
  }

  /** It is out of sight. */
  leave() {
    this.#stop?.abort();
    this.#group = null;
    open.hidden = true;
    dialog.close();
    hush(notice);
  }

  /**
   * Ask what is to be done about a user, and the message that gave rise to it.
   * @param {{user: string, ts?: number, text?: string}} about
   */
  ask({ user, ts, text }) {
    const reason = field("modReason", textInput("act-reason", MAX_REASON));
    const duration = field("modFor", durations());
    const acts = make("div", "acts");
    const add = (key, method, given) => acts.append(button(key, () => {
      const why = reason.querySelector("input").value.trim();
      const seconds = Number(duration.querySelector("select").value);
      void this.#act(key, method, given(why, seconds), user);
    }));
    if (ts) add("modReport", "report", (why) => ({ ts, reason: why }));
    if (this.#group.isModerator) {
      if (ts) add("modDelete", "delete_message", () => ({ ts }));
    }
    if (this.#group.isModerator && user) {
      add("modDeleteAll", "delete_messages_of", () => ({ user }));
      add("modMute", "mute", (why, seconds) => ({ user, seconds, reason: why }));
      add("modUnmute", "unmute", () => ({ user }));
      add("modBan", "ban", (why, seconds) => ({ user, seconds, reason: why }));
      add("modUnban", "unban", () => ({ user }));
    }
    const quote = text ? [verbatim("quote", text, "p")] : [];
    const parts = this.#group.isModerator && user ? [reason, duration] : [reason];
    show(authorOf(user), ...quote, ...parts, acts);
  }

  async #showRoom() {
    const slow = textInput("act-slow", 9);
    Object.assign(slow, { type: "number", min: 0, value: 0 });
    const user = textInput("act-user", MAX_ID);
    const set = button("modSet", () => this.#act("modSlow", "slow_mode", { seconds: Number(slow.value) }));
    const choose = button("modChoose", () => user.value.trim() && this.ask({ user: user.value.trim() }));
    const switches = make(
      "div",
      "acts",
      button("modOnly", () => this.#act("modOnly", "mute_all", { on: true })),
      button("modEveryone", () => this.#act("modEveryone", "mute_all", { on: false })),
    );
    const reports = make("ul", "reports");
    const fields = [make("div", "pair", field("modSlow", slow), set), make("div", "pair", field("modUser", user), choose)];
    show(say(make("span"), "modRoom"), ...fields, switches, say(make("h3"), "modReports"), reports);
    await this.#listReports(reports);
  }

  async #listReports(list) {
    try {
      const { reports } = await this.#group.call("reports");
      list.replaceChildren(...reports.map((report) => this.#makeReport(report)));
      if (!reports.length) list.append(say(make("li", "help"), "modNoReports"));
    } catch (error) {
      this.#fail(error);
    }
  }

  #makeReport({ ts, user, by, at, reason }) {
    const handle = button("modHandle", () => this.ask({ user, ts, text: reason }));
    label(handle, "modHandleOf", { user, reason });
    const words = say(make("p"), "modReported", { by, user, reason });
    return make("li", "line", make("div", "", words, sayTime(make("time", "help"), at, "moment")), handle);
  }

  async #act(key, method, data, user) {
    if (method === "report" && !data.reason) {
      say(dialog.querySelector(".failure"), "modReasonFirst");
      byId("act-reason").focus();
      return;
    }
    try {
      await this.#group.call(method, data);
      dialog.close();
      const what = () => phrase(key);
      say(notice, user ? "modDoneOf" : "modDone", { what, user });
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error) {
    if (!(error instanceof FastIMError)) throw error;
    const failure = dialog.querySelector(".failure");
    if (!error.isRefusal) say(failure, "modNoAnswer");
    else say(failure, "modRefused", { reason: (language) => inLanguage(error.msg, language) });
  }

  #tell({ act, until = 0, reason = "", seconds = 0 }) {
    const when = (language) => new Date(until).toLocaleString(language === "zh" ? "zh-CN" : "en");
    const words = {
      mute: until ? "modYouMuted" : "modYouMutedForGood",
      unmute: "modYouUnmuted",
      moderator_added: "modYouModerate",
      moderator_removed: "modYouModerateNoMore",
      slow_mode: seconds ? "modSlowOn" : "modSlowOff",
      mute_all: "modNowOnly",
      unmute_all: "modNowEveryone",
    };
    if (words[act]) say(notice, words[act], { until: when, reason, seconds });
  }
}

function show(title, ...parts) {
  const heading = make("h2", "", title);
  heading.id = "act-title";
  const failure = make("p", "failure");
  failure.role = "alert";
  const close = button("modClose", () => dialog.close());
  dialog.replaceChildren(heading, ...parts, failure, close);
  if (!dialog.open) dialog.showModal();
}

function button(key, act) {
  const made = say(make("button"), key);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function textInput(id, maxLength) {
  return Object.assign(make("input"), { id, maxLength, autocomplete: "off" });
}

function durations() {
  const options = DURATIONS.map(([seconds, key]) => Object.assign(say(make("option"), key), { value: seconds }));
  return make("select", "", ...options);
}

function field(key, input) {
  return make("label", "field", say(make("span"), key), input);
}
