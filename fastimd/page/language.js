// The page's words, in the language of the browser or the one that was chosen.
//
// Every visible word goes through `say`, `hint`, `label` or `sayTime`, which note on the element what
// it says: a change of language rewrites the whole page.

import { make, nameOf, remember, remembered } from "./dom.js";

const TAGS = { en: "en", zh: "zh-CN" };
const texts = { en: {}, zh: {} };
const values = new WeakMap();
const times = new WeakMap();
const followers = [];

let language = remembered("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!Object.hasOwn(texts, language)) language = "en";

/**
 * Add words: of each language the same keys. `{name}` in a text is a value's place; a value that is
 * another in each language is a function of it. Where `count` is 1, the text of the key with `One`
 * behind it is taken, in a language that has one.
 */
export function addTexts({ en, zh }) {
  Object.assign(texts.en, en);
  Object.assign(texts.zh, zh);
}

export const hasText = (key) => Object.hasOwn(texts.en, key);

export function phrase(key, given = {}) {
  const one = given.count === 1 ? texts[language][`${key}One`] : undefined;
  return (one ?? texts[language][key]).replace(/\{(\w+)\}/g, (_, name) => {
    const value = given[name];
    return typeof value === "function" ? value(language) : value;
  });
}

export function say(element, key, given) {
  element.dataset.text = key;
  values.set(element, given);
  const text = phrase(key, given);
  // What is live is read out whenever it is written.
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/** The name of a message's author; without one it is the server's own. */
export function authorOf(user) {
  return user ? nameOf(user) : say(make("b", "server"), "chatNobody");
}

/** Let an element say nothing. */
export function hush(element) {
  delete element.dataset.text;
  element.textContent = "";
}

/** The placeholder of a field. */
export function hint(element, key) {
  element.dataset.placeholder = key;
  element.placeholder = phrase(key);
}

/** The name of what shows none, for those who hear the page. */
export function label(element, key, given) {
  element.dataset.label = key;
  values.set(element, given);
  element.setAttribute("aria-label", phrase(key, given));
  return element;
}

const FORMATS = {
  time: { hour: "numeric", minute: "2-digit" },
  moment: { dateStyle: "full", timeStyle: "medium" },
  day: { weekday: "long", year: "numeric", month: "long", day: "numeric" },
  stamp: { dateStyle: "short", timeStyle: "medium" },
  shortDay: { month: "short", day: "numeric" },
};
const formatters = new Map();

function formatted(date, format) {
  const key = `${language} ${format}`;
  if (!formatters.has(key)) {
    formatters.set(key, new Intl.DateTimeFormat(TAGS[language], FORMATS[format]));
  }
  return formatters.get(key).format(date);
}

/** The day of a date, as a number that only tells days apart. */
export const dayOf = (date) => new Date(date).setHours(0, 0, 0, 0);

function describe(date, format) {
  if (format !== "day") return formatted(date, format);
  const ago = Math.round((dayOf(Date.now()) - dayOf(date)) / 86_400_000);
  if (ago !== 0 && ago !== 1) return formatted(date, "day");
  const word = new Intl.RelativeTimeFormat(TAGS[language], { numeric: "auto" }).format(-ago, "day");
  return word[0].toLocaleUpperCase(TAGS[language]) + word.slice(1);
}

/** A date as "time" of day, as a "day", as a "shortDay", or exactly, as a "stamp". */
export function sayTime(element, ts, format) {
  const date = new Date(ts);
  if (Number.isNaN(date.getTime())) return element;
  times.set(element, [date, format]);
  element.dataset.time = format;
  element.dateTime = date.toISOString();
  element.title = formatted(date, "moment");
  element.textContent = describe(date, format);
  return element;
}

/** Call something at each change of language, before the page is rewritten. */
export function onTranslate(follow) {
  followers.push(follow);
}

export function translatePage() {
  document.documentElement.lang = TAGS[language];
  for (const follow of followers) follow();
  for (const element of document.querySelectorAll("[data-text]")) {
    say(element, element.dataset.text, values.get(element));
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    hint(element, element.dataset.placeholder);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    label(element, element.dataset.label, values.get(element));
  }
  sayTimes(document);
}

/** Say the dates below an element anew: in another language, or as a day has passed. */
export function sayTimes(root) {
  for (const element of root.querySelectorAll("time[data-time]")) {
    if (times.has(element)) sayTime(element, ...times.get(element));
  }
}

/** Let a button change the language; it says the other one's name. */
export function makeSwitch(button) {
  const show = () => {
    button.textContent = phrase("otherLanguage");
    button.lang = TAGS[language === "en" ? "zh" : "en"];
  };
  button.addEventListener("click", () => {
    language = language === "en" ? "zh" : "en";
    remember("language", language);
    translatePage();
  });
  onTranslate(show);
}
