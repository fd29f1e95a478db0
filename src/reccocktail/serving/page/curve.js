// The curve that a cocktail's coefficients were chosen on, drawn and as a table.

import { el, svg } from "./dom.js";

const WIDTH = 360;
const HEIGHT = 190;
const LEFT = 48;
const RIGHT = 312;
const TOP = 14;
const BOTTOM = 150;

// Objective -> what it is called, and its value at a point of the sheet's curve.
const MINIMISED = {
  entropy: ["Entropy", (p) => p.entropy],
  calibrated: ["Calibrated entropy", (p) => p.calibrated_entropy],
  "adapter-calibrated": ["Entropy, calibrated by adapter", (p) => p.adapter_calibrated_entropy],
  divergence: ["Divergence from the adapters", (p) => p.divergence],
  distillation: ["Distillation of the adapters", (p) => p.distillation],
  information: ["Mutual information, negative", (p) => -p.mutual_information],
  validation: ["Log loss of labelled users", (p) => p.log_loss],
};

const lineOf = (sheet) =>
  (sheet?.curve ?? []).filter(
    (p) => p.coefficients?.length === 2 && Math.abs(p.coefficients[0] + p.coefficients[1] - 1) < 1e-5,
  );

/** Points on the line between the two adapters, by the first coefficient. */
export function pointsOf(sheet) {
  const [, valueOf] = minimised(sheet);
  return lineOf(sheet)
    .map((p) => ({ at: p.coefficients[0], value: valueOf(p), quality: p.validation?.["ndcg@10"] ?? null }))
    .sort((a, b) => a.at - b.at);
}

/** What chose the coefficients; entropy, if that is not known of every point. */
function minimised(sheet) {
  const own = MINIMISED[sheet?.objective];
  return own && lineOf(sheet).every((p) => Number.isFinite(own[1](p) ?? NaN)) ? own : MINIMISED.entropy;
}

const xOf = (at) => LEFT + at * (RIGHT - LEFT);

/** Value -> y, with the range that it covers. */
function scale(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || 1;
  return { low, high, y: (value) => BOTTOM - 8 - ((value - low) / span) * (BOTTOM - TOP - 16) };
}

/**
 * Figure and table.
 *
 * @param points of `pointsOf`
 * @param chosen first coefficient of the cocktail; null if it is not on the line
 * @returns the element, and `mark(at)` that moves the line of the position looked at
 */
export function curve(points, chosen, names, sheet) {
  const judged = points.filter((p) => p.quality !== null);
  const [name] = minimised(sheet);
  const objective = scale(points.map((p) => p.value));
  const marker = svg("line", { class: "here", y1: TOP, y2: BOTTOM });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": "curve-title" },
    svg("title", { id: "curve-title" }, describe(name, points, chosen, judged.length > 0)),
    svg("path", { class: "axis", d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}${judged.length ? `V${TOP}` : ""}` }),
    marker,
  );
  const text = (x, y, content, anchor, kind) =>
    picture.append(svg("text", { x, y, "text-anchor": anchor, class: kind }, content));
  for (const at of [0, 0.5, 1]) text(xOf(at), BOTTOM + 16, String(at), "middle", "tick");
  text((LEFT + RIGHT) / 2, BOTTOM + 33, `λ, the share of ${names[0]}`, "middle", "tick");
  draw(picture, points.map((p) => [xOf(p.at), objective.y(p.value)]), "objective");
  ends(text, objective, LEFT - 10, "end", "objective");
  if (judged.length > 1) {
    const quality = scale(judged.map((p) => p.quality));
    draw(picture, judged.map((p) => [xOf(p.at), quality.y(p.quality)]), "quality");
    ends(text, quality, RIGHT + 10, "start", "quality");
  }
  const point = points.find((p) => chosen !== null && Math.abs(p.at - chosen) < 1e-5);
  if (point) {
    picture.append(svg("circle", { class: "chosen", cx: xOf(point.at), cy: objective.y(point.value), r: 6 }));
  }
  const n = sheet.validation?.users;
  const key = el(
    "p",
    { class: "small key-line" },
    el("span", { class: "objective" }, `${name} (nats)`),
    judged.length > 1 && el("span", { class: "quality" }, `Validation NDCG@10${n ? ` (n = ${n})` : ""}`),
    point ? el("span", { class: "chosen" }, "Chosen") : null,
  );
  return {
    element: el("div", { class: "curve" }, picture, key, table(name, points, point)),
    mark(at) {
      marker.toggleAttribute("hidden", at === null);
      marker.style.visibility = at === null ? "hidden" : "visible";
      if (at !== null) for (const end of ["x1", "x2"]) marker.setAttribute(end, xOf(at));
    },
  };
}

function draw(picture, places, kind) {
  const d = places.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  picture.append(svg("path", { class: `line ${kind}`, d }));
  for (const [cx, cy] of places) picture.append(svg("circle", { class: `dot ${kind}`, cx, cy, r: 2.5 }));
}

function ends(text, { low, high, y }, x, anchor, kind) {
  text(x, y(high) + 4, high.toFixed(3), anchor, `tick ${kind}`);
  if (high !== low) text(x, y(low) + 4, low.toFixed(3), anchor, `tick ${kind}`);
}

function describe(name, points, chosen, judged) {
  const where = chosen === null ? "" : ` The chosen point is lambda ${+chosen.toFixed(3)}.`;
  const also = judged ? " and validation NDCG@10" : "";
  return `${name}${also} at ${points.length} values of lambda from 0 to 1.${where} The table below holds the figures.`;
}

function table(name, points, chosen) {
  const rows = points.map((p) =>
    el(
      "tr",
      { class: p === chosen && "chosen" },
      el("th", { scope: "row" }, String(+p.at.toFixed(4)), p === chosen && " (chosen)"),
      el("td", {}, p.value.toFixed(4)),
      el("td", {}, p.quality === null ? "not measured" : p.quality.toFixed(4)),
    ),
  );
  const head = ["λ", `${name} (nats)`, "Validation NDCG@10"].map((column) => el("th", { scope: "col" }, column));
  return el(
    "details",
    {},
    el("summary", {}, "The curve as a table"),
    el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)),
  );
}
