// The server API of the daemon that this page comes from: calls, the key, and what it may do.

const STORED = "fastimd.key";
const SECONDS = 15;
const DENIED = 103;

let key = stored();
let rights = { name: "", methods: [], groups: [] };
const listeners = { signedOut: () => {} };

/** A call that was not done. `code` is that of the API's error, or of HTTP; 0 without an answer. */
export class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  /** Whether the daemon has said so itself; else nobody knows how it is. */
  get isAnswer() {
    return this.code > 0 && this.code < 500;
  }

  get isDenied() {
    return this.code === DENIED;
  }
}

/** Call something when the daemon wants a key, or another one. */
export function onSignedOut(listener) {
  listeners.signedOut = listener;
}

/** Call a method; gives its result, or throws a `Failure`. */
export async function call(method, body = {}, signal = undefined) {
  const late = AbortSignal.timeout(SECONDS * 1000);
  let response;
  let answer;
  try {
    response = await fetch(new URL(`api/${method}`, document.baseURI), {
      method: "POST",
      headers: { "Content-Type": "application/json", "Fastimd-Command": "1", ...(key && { "X-API-Key": key }) },
      body: JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, late]) : late,
    });
    answer = await response.json();
  } catch (error) {
    throw new Failure(0, String(error.message));
  }
  const { error } = answer;
  if (response.status === 401) listeners.signedOut();
  if (error === undefined && response.ok) return answer.result ?? answer;
  throw new Failure(error?.code ?? response.status, error?.message ?? String(error));
}

/** Learn who one is here, with a key or, on the daemon's own machine, without. */
export async function signIn(given = key) {
  const before = key;
  key = given;
  try {
    rights = await call("whoami");
  } catch (error) {
    key = before;
    throw error;
  }
  store(key);
  return rights;
}

export function signOut() {
  key = "";
  store("");
}

export const hasKey = () => key !== "";

/** Whether one may call a method, in whatever group. */
export const may = (method) => rights.methods.includes(method);

/** The groups that the key names, where it names any by their whole ids. */
export const namedGroups = () => rights.groups.filter((glob) => !/[*?[\]]/.test(glob));

// Storage throws where the browser blocks it; the key then lasts as long as the page.

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}

function store(value) {
  try {
    if (value) sessionStorage.setItem(STORED, value);
    else sessionStorage.removeItem(STORED);
  } catch {
    return;
  }
}
