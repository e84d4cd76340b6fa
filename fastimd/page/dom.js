// Small helpers for the page's elements. Text enters the page as text nodes only.

const HUES = 6;

export const byId = (id) => document.getElementById(id);

/** An element with children; strings become text nodes. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Somebody's text, in whatever direction its own letters run. */
export function verbatim(className, text, tag = "pre") {
  const element = make(tag, className, text);
  element.dir = "auto";
  return element;
}

/** A user's name in the user's colour. */
export function nameOf(user) {
  const name = verbatim("user", user, "b");
  let hash = 0;
  for (const character of user) hash = (hash * 31 + character.codePointAt(0)) % 9973;
  name.dataset.hue = hash % HUES;
  return name;
}

export function onSubmit(id, action) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

/** Enter in a text area does what its form's button does; Shift+Enter begins a line. */
export function sendOnEnter(textarea, send) {
  textarea.addEventListener("keydown", (event) => {
    // Enter also picks a candidate in an input method; some browsers say so by key code 229 only.
    const isComposing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || isComposing) return;
    event.preventDefault();
    send();
  });
}

// Storage throws where the browser blocks it; the page then forgets, and works.

/** What was remembered under a name, else null. */
export function remembered(name) {
  try {
    return localStorage.getItem(`fastimd.${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`fastimd.${name}`, value);
  } catch {
    return;
  }
}
