// A chat in one group of fastimd, for browsers and for Node 22 or later. Needs no package.
//
//   const notSent = (text, why) => console.log(`not sent: ${text} (${why})`);
//   const chat = new Chat("http://127.0.0.1:9000", "1", "mara", "password", console.log, notSent);
//   chat.run().catch((reason) => console.error(reason));
//   chat.say("hello");

const FINAL_CODES = [1002, 1003, 1007, 1008, 1009]; // connecting again would end in the same way
const ANSWER_MS = 15_000; // for the greeting, and for an answer over HTTP

class Ended extends Error {} // the daemon does not want this client
class NotLoggedIn extends Error {}

export class Chat {
  #lastTs = null; // of the newest message shown
  #unheard = []; // said, and not yet come back
  #socket = null;
  #token = "";
  #isLoggedIn = false;
  #failures = 0;
  #late; // the timer of the greeting

  constructor(url, group, user, password, show, notSent) {
    Object.assign(this, { url, group, user, password });
    this.show = show; // called with each message once, in order
    this.notSent = notSent; // called with each text that the daemon does not take, and why
  }

  // Stays connected. Rejects when there is no use in trying again.
  async run() {
    for (;;) {
      let wait = Math.random() * Math.min(30_000, 1000 * 2 ** this.#failures++);
      try {
        if (!this.#isLoggedIn) await this.#logIn();
        const { code, reason } = await this.#talk();
        if (FINAL_CODES.includes(code)) throw new Ended(`closed: ${code} ${reason}`);
        if (reason.startsWith("restart ")) wait = Number(reason.slice("restart ".length));
      } catch (error) {
        if (error instanceof Ended) throw error;
        if (error instanceof NotLoggedIn) this.#isLoggedIn = false;
        // Else it was the network: try again.
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  // Sends a text, now or as soon as there is a connection.
  say(text) {
    this.#unheard.push(text);
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  async #logIn() {
    const answer = await this.#post("/user/login", { userId: this.user, password: this.password });
    if (answer.code !== 200) throw new Ended(`the login is refused: ${answer.msg}`);
    this.#token = answer.msg;
    await this.#post("/user/joinGroup", { groupId: this.group });
    this.#isLoggedIn = true;
  }

  // One connection, from its beginning to its end; resolves to the event of its close.
  async #talk() {
    const path = [this.group, this.user, this.#token].map(encodeURIComponent).join("/");
    const socket = new WebSocket(`${this.url.replace(/^http/, "ws")}/group/chat/${path}`);
    let failure = null;
    let turn = Promise.resolve(); // frames are taken one after another
    socket.onmessage = ({ data }) => {
      turn = turn.then(() => failure ?? this.#take(socket, data)).catch((error) => {
        failure = error; // what comes after it is not taken: it would leave a gap
        socket.close();
      });
    };
    const closed = await new Promise((resolve) => {
      const lost = () => resolve({ code: 1006, reason: "" });
      this.#late = setTimeout(lost, ANSWER_MS);
      socket.onclose = resolve;
      socket.onerror = lost; // Node may say no more than that
    });
    clearTimeout(this.#late);
    socket.onmessage = null;
    socket.close();
    await turn;
    this.#socket = null;
    if (failure !== null) throw failure;
    return closed;
  }

  async #take(socket, data) {
    if (data === "440") throw new NotLoggedIn();
    const value = JSON.parse(data);
    if ("code" in value) return this.#decline(value);
    if (!("list" in value)) return this.#show(value);
    clearTimeout(this.#late);
    await this.#catchUp(value.list);
    this.#failures = 0;
    if (socket.readyState !== WebSocket.OPEN) return;
    for (const text of this.#unheard) socket.send(text);
    this.#socket = socket;
  }

  // Takes what came since the last connection: the greeting, and what lies before it.
  async #catchUp(missed) {
    while (missed.length && this.#lastTs !== null && missed[0].ts > this.#lastTs) {
      const { groupId, userId, ts } = missed[0];
      const fields = { groupId, userId, ts, count: 100 };
      const { data } = await this.#post("/group/listOldMessage", fields);
      if (!data?.length) break; // no more, or a hook keeps them to itself
      missed = [...data.map((text) => JSON.parse(text)), ...missed];
    }
    missed.forEach((message) => this.#show(message));
    this.#lastTs ??= 0;
  }

  #show(message) {
    if (message.ts <= (this.#lastTs ?? 0)) return; // it is known
    this.#lastTs = message.ts;
    if (message.userId === this.user) this.#hear(message.info);
    this.show(message);
  }

  // The user said this. Texts come back in order, so one that is not known is the first, changed by
  // a hook; before anything was sent on this connection it is another device's.
  #hear(info) {
    const at = this.#unheard.indexOf(info);
    if (at >= 0 || this.#socket !== null) this.#unheard.splice(Math.max(at, 0), 1);
  }

  // A hook refuses a text, or has failed.
  #decline({ msg, data }) {
    const at = this.#unheard.indexOf(data);
    if (at >= 0) this.#unheard.splice(at, 1);
    this.notSent(data, msg);
  }

  async #post(path, fields) {
    const headers = { userId: utf8(this.user), token: utf8(this.#token) };
    const body = new URLSearchParams(fields);
    const signal = AbortSignal.timeout(ANSWER_MS);
    const answer = await fetch(this.url + path, { method: "POST", headers, body, signal });
    if (answer.status >= 400 && answer.status < 500 && ![408, 429].includes(answer.status)) {
      throw new Ended(`${answer.status}: ${await answer.text()}`);
    }
    if (!answer.ok) throw new Error(`${answer.status}`);
    const result = await answer.json();
    if (result.code === 440) throw new NotLoggedIn();
    return result;
  }
}

// A header's value is bytes, which fetch wants as a string of so many characters.
function utf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
