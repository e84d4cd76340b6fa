// Light or dark: as the system has it, or as was chosen.

import { byId, remember, remembered } from "./dom.js";
import { say } from "./language.js";

const MEDIA = { auto: "(prefers-color-scheme: dark)", light: "not all", dark: "all" };
const SCHEMES = { auto: "light dark", light: "light", dark: "dark" };
const NAMES = Object.keys(MEDIA);

let theme = remembered("theme");
if (!NAMES.includes(theme)) theme = "auto";

function show() {
  byId("dark").media = MEDIA[theme];
  document.documentElement.style.colorScheme = SCHEMES[theme];
  say(byId("theme"), `theme_${theme}`);
}

/** Let a button go from one to the next. */
export function startTheme() {
  byId("theme").addEventListener("click", () => {
    theme = NAMES[(NAMES.indexOf(theme) + 1) % NAMES.length];
    remember("theme", theme);
    show();
  });
  show();
}
