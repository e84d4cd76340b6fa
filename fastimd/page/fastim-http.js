// The calls over HTTP.

import { FastIMError, inLanguage } from "./fastim-errors.js";

/** Milliseconds of waiting for an answer. */
const ANSWER_MS = 15_000;

/**
 * Ask a user's server.
 * @param {import("./fastim.js").FastIM} im
 * @param {string} path
 * @param {Record<string, unknown>} parameters
 * @param {number[]} [expected]  the codes that are no errors
 * @returns {Promise<{code: number, msg: string, data: any}>}
 * @throws {FastIMError}
 */
export async function post(im, path, parameters, expected = [200]) {
  const headers = im.token ? { userId: asHeader(im.userId), token: asHeader(im.token) } : {};
  const request = {
    method: "POST",
    headers: path === "/user/login" ? {} : headers,
    body: new URLSearchParams(parameters),
    credentials: "omit",
    signal: AbortSignal.timeout(ANSWER_MS),
  };
  let answer;
  try {
    answer = await (await fetch(im.url + path, request)).json();
  } catch (error) {
    throw new FastIMError(FastIMError.NO_ANSWER, `no answer from ${im.url}: ${error.message}`);
  }
  if (expected.includes(answer?.code)) return answer;
  if (answer?.code === 440) im._askLogin();
  throw refusalOf(im, answer);
}

/** The error that says what a server has refused, and why. */
export function refusalOf(im, answer) {
  const msg = String(answer?.msg ?? "not an answer of fastimd");
  return new FastIMError(Number(answer?.code ?? 0), msg, inLanguage(msg, im.language));
}

// Headers are bytes; the server reads UTF-8.
function asHeader(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
