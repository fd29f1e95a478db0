// Ranked lists: one, or several of the same history with what they share made visible.

import { el } from "./dom.js";

/**
 * An empty column with a heading.
 *
 * @param former list that stays in sight until another is shown; null for none
 * @returns the element, and what fills it: `wait(share)`, `show(items, add)`, `fail(error, again)`
 */
export function column(key, heading, note, former) {
  const body = el("div", { class: "column-body" });
  const titles = heading ? [el("h3", {}, heading), el("p", { class: "muted small" }, note)] : [];
  const element = el("section", { class: "column card", "data-column": key }, ...titles, body);
  const progress = el("div", { class: "wait", hidden: true });
  body.append(progress, ...(former ? [former] : []));
  let list = null;

  function settle(...content) {
    progress.hidden = true;
    element.removeAttribute("aria-busy");
    body.replaceChildren(progress, ...content);
  }

  return {
    element,
    /** Under way; null says nothing yet, a share in [0, 1] says that a mix is being prepared. */
    wait(share) {
      element.setAttribute("aria-busy", "true");
      if (share === null) return;
      progress.hidden = false;
      const meter = el("progress", { max: 1, value: share, "aria-label": "Preparing this mix" });
      const text = `Preparing this mix: ${Math.floor(100 * share)} %`;
      progress.replaceChildren(el("p", {}, text), meter);
    },
    show(items, add) {
      const best = items[0]?.score ?? 0;
      list = el("ol", { class: "ranking" }, ...items.map((item) => row(item, best, add)));
      settle(items.length ? list : el("p", { class: "muted" }, "Nothing is left to recommend."));
    },
    fail(error, again) {
      const retry = el("button", { type: "button", onclick: again }, "Try again");
      settle(el("p", { class: "error", role: "alert" }, error.message), error.again && retry);
    },
    rows: () => [...(list?.children ?? [])],
  };
}

function row(item, best, add) {
  const bar = el("span", { class: "fill" });
  bar.style.width = `${100 * Math.exp(item.score - best)}%`;
  return el(
    "li",
    { "data-item": item.item_id },
    el("span", { class: "rank", "aria-hidden": "true" }, String(item.rank)),
    el(
      "div",
      { class: "what" },
      el("span", { class: "title" }, item.title),
      item.new && el("span", { class: "badge", title: "Nobody touched it in training" }, "New"),
      el("span", { class: "muted small categories" }, item.categories.join(" · ")),
      el(
        "div",
        { class: "score" },
        el("span", { class: "track", "aria-hidden": "true" }, bar),
        el("span", { class: "number" }, item.score.toFixed(2)),
      ),
    ),
    el(
      "button",
      {
        type: "button",
        class: "add",
        title: "Add to your history",
        "aria-label": `Add ${item.title} to your history`,
        onclick: () => add(item, item.rank),
      },
      "+",
    ),
  );
}

/** Mark the items that all columns hold; hovering or focusing one lights it up in each. */
export function link(columns) {
  const rows = columns.map((one) => one.rows());
  const ids = rows.map((some) => new Set(some.map((one) => one.dataset.item)));
  for (const one of rows.flat()) {
    const id = one.dataset.item;
    if (ids.every((set) => set.has(id))) {
      one.classList.add("common");
      one.querySelector(".score").before(el("span", { class: "shared" }, "in all lists"));
    }
    const same = rows.flat().filter((other) => other.dataset.item === id);
    const light = (on) => same.forEach((other) => other.classList.toggle("lit", on));
    for (const start of ["mouseenter", "focusin"]) one.addEventListener(start, () => light(true));
    for (const end of ["mouseleave", "focusout"]) one.addEventListener(end, () => light(false));
  }
}
