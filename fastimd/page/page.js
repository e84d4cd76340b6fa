// The page: its two tabs, its language, and what begins in each.

import { startChat } from "./chat.js";
import { byId } from "./dom.js";
import { addTexts, makeSwitch, translatePage } from "./language.js";
import { startRaw } from "./raw.js";

addTexts({
  en: { otherLanguage: "中文", tabs: "Tools", tabChat: "Chat", tabRaw: "Raw" },
  zh: { otherLanguage: "English", tabs: "工具", tabChat: "聊天", tabRaw: "原始帧" },
});

const TABS = {
  chat: { tab: byId("tab-chat"), parts: [byId("chat-panel"), byId("chat-status")] },
  raw: { tab: byId("tab-raw"), parts: [byId("raw-panel"), byId("status")] },
};

function choose(name) {
  for (const [each, { tab, parts }] of Object.entries(TABS)) {
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    for (const part of parts) part.hidden = each !== name;
  }
}

function onTabKey(event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const name = TABS.chat.tab === event.currentTarget ? "raw" : "chat";
  choose(name);
  TABS[name].tab.focus();
}

for (const [name, { tab }] of Object.entries(TABS)) {
  tab.addEventListener("click", () => choose(name));
  tab.addEventListener("keydown", onTabKey);
}

makeSwitch(byId("language"));
choose(location.hash === "#raw" ? "raw" : "chat");
startRaw();
startChat();
translatePage();
