// Lists that are shown again and again: what stays keeps its element, and with it the keyboard.

const kept = new WeakMap();

/**
 * Show items in a list. `make` gives the element of a new item; `update` shows an item in its element.
 */
export function showList(list, items, keyOf, make, update = () => {}) {
  const before = kept.get(list) ?? new Map();
  const after = new Map();
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  let place = list.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (after.has(key)) continue;
    const element = before.get(key) ?? make(item);
    update(element, item);
    after.set(key, element);
    if (element === place) place = place.nextElementSibling;
    else list.insertBefore(element, place);
  }
  for (const [key, element] of before) if (!after.has(key)) element.remove();
  kept.set(list, after);
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus();
}

/** Show nothing, and forget what was shown. */
export function clearList(list) {
  kept.delete(list);
  list.replaceChildren();
}

const STEPS = { ArrowDown: 1, ArrowUp: -1 };

/** Let the arrow keys, Home and End go from one row of a list to another. */
export function walkByKeys(list, selector = "a, button") {
  list.addEventListener("keydown", (event) => {
    const row = event.target.closest("li");
    if (!row || row.parentElement !== list || event.target.matches("input, textarea, select")) return;
    const rows = [...list.children].filter((each) => each.querySelector(selector));
    const last = rows.length - 1;
    const at = rows.indexOf(row);
    const to = { Home: 0, End: last }[event.key] ?? at + (STEPS[event.key] ?? 0);
    if (to === at || to < 0 || to > last) return;
    event.preventDefault();
    rows[to].querySelector(selector).focus();
  });
}
