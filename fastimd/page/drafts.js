// The user's texts on their way, below a group's messages: what has become of each, and what can be
// done about it.

import { make, verbatim } from "./dom.js";
import { inLanguage } from "./fastim.js";
import { addTexts, say } from "./language.js";

addTexts({
  en: {
    draftQueued: "Waits for the connection",
    draftSending: "Sending…",
    draftUnsent: "Not sent: {reason}",
    draftRefused: "Refused: {reason}",
    draftRefusedOnly: "Refused",
    draftTryLater: "Not sent: the server could not take it",
    draftSlow: "Not sent: wait {seconds} s between two messages",
    draftLost: "Not sent: the connection broke",
    draftOffline: "Not sent: no connection",
    draftTooLarge: "Not sent: it is too long",
    draftAgain: "Send again",
    draftDiscard: "Discard",
  },
  zh: {
    draftQueued: "等待连接",
    draftSending: "正在发送…",
    draftUnsent: "未发送：{reason}",
    draftRefused: "被拒绝：{reason}",
    draftRefusedOnly: "被拒绝",
    draftTryLater: "未发送：服务端暂时无法处理",
    draftSlow: "未发送：慢速模式，请 {seconds} 秒后再发",
    draftLost: "未发送：连接中断",
    draftOffline: "未发送：没有连接",
    draftTooLarge: "未发送：消息过长",
    draftAgain: "重新发送",
    draftDiscard: "丢弃",
  },
});

/** Why a text is unsent or refused, as it came. */
const REASONS = {
  "connection lost": "draftLost",
  "no connection": "draftOffline",
  "login required": "draftOffline",
  "kicked": "draftOffline",
  "put out": "draftOffline",
  "not a member": "draftOffline",
  "private group": "draftOffline",
  "too many groups": "draftOffline",
  "not allowed": "draftOffline",
  "limit exceeded": "draftTooLarge",
  "permission denied": "draftRefusedOnly",
  "internal server error": "draftTryLater",
};

export class DraftsView {
  /** What there is to see. */
  element = make("ol", "drafts");

  /** @type {(error: import("./fastim.js").FastIMError) => void} */
  onFailure = () => {};
  /** @type {() => void} A button was used, and is gone: the keyboard belongs elsewhere. */
  onUse = () => {};

  #group;
  #rows = new Map();

  /** @param {import("./fastim.js").Group} group */
  constructor(group) {
    this.#group = group;
  }

  /** Show a draft as it is now. */
  show(draft) {
    const before = this.#rows.get(draft);
    if (draft.state === "sent") {
      before?.remove();
      this.#rows.delete(draft);
    } else {
      const row = this.#makeRow(draft);
      if (before) before.replaceWith(row);
      else this.element.append(row);
      this.#rows.set(draft, row);
    }
  }

  #makeRow(draft) {
    const { text, state } = draft;
    const [key, values] = noteOf(draft);
    const note = say(make("p", "help"), key, values);
    const under = make("div", "line", note);
    if (state === "unsent") {
      under.append(this.#makeButton("draftAgain", draft, () => this.#sendAgain(draft)));
    }
    if (state === "unsent" || state === "refused") {
      note.role = "alert";
      under.append(this.#makeButton("draftDiscard", draft, () => this.#group.discard(draft)));
    }
    const line = make("div", "line", make("p", "text", verbatim("", text, "span")));
    return make("li", `message own ${state}`, line, under);
  }

  #makeButton(key, draft, act) {
    const button = say(make("button", "quiet"), key);
    button.type = "button";
    button.addEventListener("click", () => {
      this.#rows.get(draft)?.remove();
      this.#rows.delete(draft);
      act();
      this.onUse();
    });
    return button;
  }

  #sendAgain(draft) {
    try {
      this.#group.sendAgain(draft);
    } catch (error) {
      this.onFailure(error);
    }
  }
}

// What is said of a draft: the key of the words, and their values.
function noteOf({ state, msg }) {
  if (state === "queued") return ["draftQueued"];
  if (state === "sending") return ["draftSending"];
  const slow = /^slow mode: wait (\d+) s$/.exec(msg);
  if (slow) return ["draftSlow", { seconds: slow[1] }];
  if (/^more than \d+ bytes$/.test(msg)) return ["draftTooLarge"];
  const key = REASONS[msg] ?? (state === "refused" ? "draftRefused" : "draftUnsent");
  return [key, { reason: (language) => inLanguage(msg, language) }];
}
