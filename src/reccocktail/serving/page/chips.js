// The history as chips that can be taken out.

import { el } from "./dom.js";

/** Show items in `list`; `remove(place)` is called by the buttons and keeps the focus near. */
export function showChips(list, items, remove) {
  const chips = items.map((item, place) =>
    el(
      "li",
      { class: "chip" },
      el("span", { class: "title" }, item.title),
      item.new && el("span", { class: "badge" }, "New"),
      el(
        "button",
        { type: "button", "aria-label": `Remove ${item.title}`, onclick: () => remove(place) },
        "×",
      ),
    ),
  );
  list.replaceChildren(...chips);
}

/** After a chip went, the focus goes to the one in its place, or else to `other`. */
export function focusChip(list, place, other) {
  const buttons = list.querySelectorAll("button");
  (buttons[Math.min(place, buttons.length - 1)] ?? other).focus();
}
