// The live list of a user's groups.

import { FastIMError } from "./fastim-errors.js";
import { Link, SILENCE_MS } from "./fastim-link.js";
import { asMessage, parse } from "./fastim-values.js";

/**
 * @typedef {object} GroupEntry  a line of the group list
 * @property {string} groupId
 * @property {import("./fastim-values.js").Message | null} newMessage  the newest message, if there is one
 * @property {number} total               how many messages the group has
 */

/**
 * The live list of the user's groups.
 *
 * Event `groups`, detail `GroupEntry[]`: the whole list, most recently active first; groups without
 * messages last.
 */
export class GroupList extends Link {
  #pushes = 0;

  /** @param {import("./fastim.js").FastIM} im */
  constructor(im) {
    super(im, "list");
  }

  _onOpen() {
    this._becomeReady();
  }

  /** @package The list costs one frame, and a new connection is the only proof of life. */
  _lookAgain() {
    if (this.state !== "connected" || Date.now() - this._heardAt > SILENCE_MS) this._renew();
  }

  async _onText(text) {
    this.#pushes += 1;
    const push = this.#pushes;
    const connection = this._connection;
    const entries = parse(text);
    if (!Array.isArray(entries)) return;
    const [named, unnamed] = split(entries, ({ newMessage }) => newMessage);
    const list = named.map(({ newMessage, total }) => {
      const message = asMessage(newMessage);
      return { groupId: message.groupId, newMessage: message, total };
    });
    // An entry without a message does not say its group: the ids that are left over do.
    const rest = unnamed.length ? await this.#otherGroups(list) : [];
    if (push !== this.#pushes || connection !== this._connection) return;
    list.push(...rest.map((groupId) => ({ groupId, newMessage: null, total: 0 })));
    this.dispatchEvent(new CustomEvent("groups", { detail: list }));
  }

  async #otherGroups(list) {
    const named = new Set(list.map(({ groupId }) => groupId));
    try {
      return (await this._im.listGroup()).filter((groupId) => !named.has(groupId)).sort();
    } catch (error) {
      if (!(error instanceof FastIMError)) throw error;
      return []; // the next push asks again
    }
  }
}

function split(values, isFirst) {
  return [values.filter((value) => isFirst(value)), values.filter((value) => !isFirst(value))];
}
