// Search as you type: the combobox pattern of the ARIA practices, with a list that stays optional.

import { el } from "./dom.js";

const LULL = 120; // ms without a key before the service is asked

/**
 * Make an input with its listbox a search.
 *
 * @param input text input with role combobox
 * @param list its listbox
 * @param find (words, signal) -> promise of items with title, new and categories
 * @param choose called with the item that was taken
 * @param fail called with an error of `find`
 */
export function combobox(input, list, { find, choose, fail }) {
  let found = [];
  let foundFor = ""; // the words that `found` belongs to
  let active = -1;
  let timer = 0;
  let asking = new AbortController();

  function close() {
    clearTimeout(timer);
    asking.abort();
    found = [];
    foundFor = "";
    list.hidden = true;
    list.replaceChildren();
    input.setAttribute("aria-expanded", "false");
    activate(-1);
  }

  function activate(place) {
    active = place;
    [...list.children].forEach((row, n) => row.setAttribute("aria-selected", n === place));
    if (place < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", list.children[place].id);
    list.children[place]?.scrollIntoView({ block: "nearest" });
  }

  function show(items) {
    found = items;
    const rows = items.map((item, place) =>
      el(
        "li",
        { id: `option-${place}`, role: "option", onclick: () => take(place) },
        el("span", { class: "title" }, item.title),
        item.new && el("span", { class: "badge" }, "New"),
        el("span", { class: "muted small" }, item.categories.join(" · ")),
      ),
    );
    const none = el("li", { role: "option", "aria-disabled": "true" }, "No title holds these words.");
    list.replaceChildren(...(rows.length ? rows : [none]));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    activate(-1);
  }

  /** Ask for what is typed; `foundFor` tells whether the list belongs to it. */
  async function look() {
    clearTimeout(timer);
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    const words = input.value.trim();
    if (!words) return close();
    try {
      const items = await find(words, signal);
      if (signal.aborted) return;
      foundFor = words;
      show(items);
    } catch (error) {
      if (!signal.aborted) fail(error);
    }
  }

  function take(place) {
    const item = found[place];
    if (!item) return;
    input.value = "";
    close();
    choose(item);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    if (input.value.trim()) timer = setTimeout(look, LULL);
    else close();
  });
  input.addEventListener("keydown", async (event) => {
    if (event.isComposing) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (list.hidden) await look();
      if (!found.length) return;
      const from = active < 0 && step < 0 ? 0 : active;
      activate((from + step + found.length) % found.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (foundFor !== input.value.trim()) await look(); // typed faster than the answer came
      if (foundFor === input.value.trim()) take(Math.max(active, 0));
    } else if (event.key === "Escape") {
      if (list.hidden) input.value = "";
      close();
    }
  });
  input.addEventListener("blur", close);
  list.addEventListener("mousedown", (event) => event.preventDefault()); // the input keeps the focus
}
