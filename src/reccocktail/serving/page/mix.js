// How a domain is mixed: what the cocktail holds, the slider between its adapters, the curve.

import { curve, pointsOf } from "./curve.js";
import { el } from "./dom.js";

/** The first coefficient of the served cocktail, among the positions; null if it is none of them. */
export function chosenOf(detail) {
  const first = onLine(detail.cocktail);
  if (first === null) return null;
  return detail.positions.map((p) => p[0]).find((at) => Math.abs(at - first) < 1e-5) ?? null;
}

/** Names of base spirit and ingredient (the first and second adapter). */
export const namesOf = (detail) => (detail.cocktail?.adapters ?? []).map((a) => a.name);

const ROLES = { base: "Base spirit", ingredient: "Ingredient" };

/** What each adapter is to the cocktail; two of one role are told apart by their places. */
export function partsOf(detail) {
  const parts = detail.cocktail.adapters.map((adapter) => ROLES[adapter.role]);
  return parts[0] && parts[1] && parts[0] !== parts[1] ? parts : ["First adapter", "Second adapter"];
}

const percent = (share) => `${+(100 * share).toFixed(1)} %`;

/** A cocktail that is no position, in words. */
export function asServed({ cocktail }) {
  const own = cocktail?.coefficients?.all;
  if (!own) return "as it is served: shares differ within the model";
  const parts = own.map((share, place) => `${percent(share)} of ${cocktail.adapters[place].name}`);
  return `as it is served: ${parts.join(" and ")}`;
}

/** A position in words. */
export function inWords(at, names) {
  if (at === 0) return `${names[1]} alone`;
  if (at === 1) return `${names[0]} alone`;
  return `${percent(at)} ${names[0]}, ${percent(1 - at)} ${names[1]}`;
}

/**
 * Show how a domain is mixed: the slider in `box`, the curve in `panel`.
 *
 * @param at first coefficient that is looked at; null for the cocktail as it is served
 * @param move called with another one
 */
export function showMix(box, panel, detail, at, move) {
  const sheet = detail.cocktail;
  panel.hidden = !sheet;
  if (!sheet) {
    const alone = `One adapter ranks here, ${detail.adapter} (${detail.role}): no cocktail, so there is nothing to slide.`;
    return box.replaceChildren(el("p", { class: "muted" }, alone));
  }
  const names = namesOf(detail);
  const chosen = chosenOf(detail);
  const points = pointsOf(sheet);
  const figure = points.length > 2 ? curve(points, chosen ?? onLine(sheet), names, sheet) : null;
  panel.replaceChildren(
    el("h2", { id: "mix-heading" }, "The mix"),
    el("p", { class: "muted" }, `${detail.adapter} is mixed from ${names.join(" and ")}.`),
    figure?.element ?? el("p", {}, "Its coefficients were not searched on a line, so there is no curve."),
    el("p", { class: "muted small" }, sheet.agreement ?? ""),
  );
  const content = detail.positions.length
    ? slider(detail, at, chosen, names, figure, move)
    : el("p", { class: "muted" }, whyNoSlider(names));
  box.replaceChildren(content);
  figure?.mark(at ?? chosen);
}

const onLine = (sheet) => {
  const own = sheet?.coefficients?.all;
  return own?.length === 2 && Math.abs(own[0] + own[1] - 1) < 1e-5 ? own[0] : null;
};

const whyNoSlider = (names) =>
  names.length === 2
    ? "There is no slider here: the adapters that it was mixed from are not at hand, or the catalogue is too large to be encoded for other mixes."
    : "There is no slider here: it works for cocktails of two adapters.";

function slider(detail, at, chosen, names, figure, move) {
  const stops = detail.positions.map((p) => p[0]);
  let here = at ?? chosen;
  const range = el("input", {
    id: "lambda",
    type: "range",
    min: 0,
    max: 1,
    step: 0.000001,
    value: here ?? 0.5,
    "aria-describedby": "lambda-words",
  });
  const words = el("p", { id: "lambda-words" });
  const own = el("button", { type: "button", class: "quiet", onclick: () => go(chosen) });
  own.textContent = chosen === null ? "Back to the cocktail as it is served" : "Back to the chosen mix";
  const ticks = stops.map((stop) => {
    const tick = el("span", { class: stop === chosen ? "tick chosen" : "tick" });
    tick.style.left = `${100 * stop}%`;
    return tick;
  });

  function tell() {
    const mark = here === chosen && chosen !== null ? " (chosen)" : "";
    const text = here === null ? asServed(detail) : inWords(here, names) + mark;
    words.textContent = text;
    range.setAttribute("aria-valuetext", text);
    if (here !== null) range.value = here;
    own.hidden = here === chosen;
    figure?.mark(here);
  }

  function go(stop) {
    const moved = stop !== here;
    here = stop;
    tell();
    if (moved) move(here === chosen ? null : here);
  }

  const nearest = (value) => stops.reduce((a, b) => (Math.abs(b - value) < Math.abs(a - value) ? b : a));
  range.addEventListener("input", () => go(nearest(Number(range.value))));
  range.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const end = { Home: 0, End: stops.length - 1 }[event.key];
    if (step === undefined && end === undefined) return;
    event.preventDefault(); // to the next position, not by a millionth
    const place = end ?? stops.indexOf(here ?? nearest(0.5)) + step;
    go(stops[Math.min(Math.max(place, 0), stops.length - 1)]);
  });
  tell();
  const [first, second] = partsOf(detail).map((part) => part.toLowerCase());
  return el(
    "div",
    { class: "slider card" },
    el("label", { for: "lambda" }, `λ between ${second} and ${first}`),
    el("div", { class: "range" }, range, el("div", { class: "ticks", "aria-hidden": "true" }, ...ticks)),
    el("div", { class: "ends small", "aria-hidden": "true" }, el("span", {}, names[1]), el("span", {}, names[0])),
    words,
    own,
  );
}
