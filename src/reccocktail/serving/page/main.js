// The page: what is looked at, and how its parts change it.

import * as address from "./address.js";
import * as api from "./api.js";
import { focusChip, showChips } from "./chips.js";
import { combobox } from "./combobox.js";
import { byId, el } from "./dom.js";
import { asServed, chosenOf, inWords, namesOf, partsOf, showMix } from "./mix.js";
import { column, link } from "./ranking.js";

const K = 10;
const view = {
  detail: null, // the domain, as the service describes it
  items: [], // the history, oldest first
  at: null, // first coefficient; null is the cocktail as it is served
  kind: "list",
};
let opening = new AbortController();
let ranking = new AbortController();
let opened = awaited(); // the domain, once its history may be changed
let retry = start;

/** A promise that is settled from outside; whoever waits for it waits through failed tries too. */
function awaited() {
  const one = { settled: false };
  one.promise = new Promise((resolve) => {
    one.settle = (value) => ((one.settled = true), resolve(value));
  });
  return one;
}

// -- errors, keys -----------------------------------------------------------------------------

const say = (text) => (byId("status").textContent = text);

function note(text, again = null) {
  byId("notice").hidden = !text;
  byId("notice-text").textContent = text;
  byId("again").hidden = !again;
  if (again) retry = again;
}

function report(error, again) {
  if (!(error instanceof api.Failure)) throw error;
  if (error.status !== 401) return note(error.message, error.again ? again : null);
  retry = again;
  byId("key-why").textContent = error.message;
  byId("key-form").hidden = false;
  byId("key").focus();
}

byId("again").addEventListener("click", () => (note(""), retry()));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setKey(byId("key").value);
  byId("key").value = "";
  byId("key-form").hidden = true;
  retry();
});

// -- domains ----------------------------------------------------------------------------------

let starts = 0; // an answer to an earlier address must not reopen it

async function start() {
  const asked = address.read();
  const number = ++starts;
  try {
    const { domains, loading, failed } = await api.domains();
    if (number !== starts) return;
    const names = domains.map((one) => one.name);
    byId("domain").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    const known = names.includes(asked.domain);
    const sentences = Object.entries(failed).map(([name, why]) => `${name} could not be plugged in: ${why}`);
    if (loading.length) sentences.push(`Being plugged in: ${loading.join(", ")}.`);
    else if (!names.length) sentences.push("No domain is served yet.");
    if (names.length && asked.domain && !known) {
      sentences.push(`There is no domain '${asked.domain}' here; this is ${names[0]}.`);
    }
    note(sentences.join(" "), loading.length || !names.length ? start : null);
    if (!names.length) return;
    await open(known ? asked : { ...asked, domain: names[0], ids: [] });
  } catch (error) {
    report(error, start);
  }
}

async function open({ domain, ids, at, view: kind }) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  byId("domain").value = domain;
  if (opened.settled) opened = awaited();
  try {
    const detail = await api.domain(domain, signal);
    const items = ids.length ? await api.lookUp(domain, ids, signal) : [];
    if (signal.aborted) return;
    const there = new Set(items.map((item) => item.item_id));
    const missing = ids.filter((id) => !there.has(id)).map((id) => `'${id}'`);
    if (missing.length) note(`${domain} has no item ${missing.join(", ")}; the rest of the history is shown.`);
    const stops = detail.positions.map((pair) => pair[0]);
    const chosen = chosenOf(detail);
    Object.assign(view, { detail, items, at: stops.includes(at) && at !== chosen ? at : null });
    view.kind = stops.length ? kind : "list";
    byId("views").hidden = !stops.length;
    document.querySelector(`[name=view][value=${view.kind}]`).checked = true;
    const count = (n, what) => `${n.toLocaleString("en")} ${what}`;
    byId("about").textContent =
      `${count(detail.items, "items")}, ${count(detail.new_items, "of them new")}. ` +
      `The last ${detail.max_history} items of a history are read.`;
    showMix(byId("slider"), byId("mix"), detail, view.at, (to) => ((view.at = to), refresh()));
    showHistory();
    opened.settle(detail);
    await refresh();
  } catch (error) {
    if (signal.aborted) return;
    if (view.detail) {
      byId("domain").value = view.detail.name; // whose lists are still shown
      opened.settle(view.detail);
    }
    report(error, () => open({ domain, ids, at, view: kind }));
  }
}

byId("domain").addEventListener("change", (event) => {
  starts += 1; // a list of domains that is still on its way says nothing of this choice
  note("");
  open({ domain: event.target.value, ids: [], at: null, view: view.kind });
});
addEventListener("hashchange", start);

// -- history ----------------------------------------------------------------------------------

function showHistory() {
  showChips(byId("history"), view.items, (place) => {
    view.items.splice(place, 1);
    changed();
    focusChip(byId("history"), place, byId("search"));
  });
  byId("history-box").hidden = !view.items.length;
}

function changed() {
  note("");
  showHistory();
  return refresh();
}

function add(item) {
  if (view.items.some((one) => one.item_id === item.item_id)) return say(`${item.title} is there already.`);
  if (view.items.length >= address.MOST_ITEMS) {
    return say(`A history has ${address.MOST_ITEMS} items at most here; remove one first.`);
  }
  view.items.push(item);
  return changed();
}

/** From a list, which is made anew: the focus stays at its place. */
async function addFrom(key, item, rank) {
  await add(item);
  const rows = byId("columns").querySelectorAll(`[data-column=${key}] .add`);
  if (document.activeElement === document.body) rows[Math.min(rank, rows.length) - 1]?.focus();
}

combobox(byId("search"), byId("options"), {
  find: async (words, signal) => api.search((await opened.promise).name, words, signal),
  choose: add,
  fail: (error) => report(error, () => byId("search").dispatchEvent(new Event("input"))),
});
byId("clear").addEventListener("click", () => {
  view.items = [];
  changed();
  byId("search").focus();
});

// -- recommendations --------------------------------------------------------------------------

/** What is shown: key, heading and first coefficient of each column. */
function columnsNow() {
  if (view.kind === "list") return [{ key: "list", at: view.at }];
  const names = namesOf(view.detail);
  const headings = partsOf(view.detail);
  const at = view.at ?? chosenOf(view.detail);
  const words = at === null ? asServed(view.detail) : inWords(at, names);
  return [
    { key: "base", heading: headings[0], words: names[0], at: 1 },
    { key: "ingredient", heading: headings[1], words: names[1], at: 0 },
    { key: "cocktail", heading: "Cocktail", words, at: view.at },
  ];
}

async function refresh() {
  ranking.abort();
  ranking = new AbortController();
  const { signal } = ranking;
  const { detail, items, at, kind } = view;
  const ids = items.map((item) => item.item_id);
  address.write({ domain: detail.name, ids, at, view: kind });
  byId("legend").hidden = !items.length;
  const box = byId("columns");
  box.classList.toggle("three", kind === "compare");
  if (!items.length) {
    say("");
    const empty = "Add a title or two above and see what goes with them.";
    return box.replaceChildren(el("p", { class: "card empty muted" }, empty));
  }
  const wanted = columnsNow();
  // The lists before stay in sight, dimmed, until the new ones are there.
  const shown = wanted.map(({ key, heading, words }) => {
    const former = box.querySelector(`[data-column=${key}] ol`);
    return column(key, heading, words, former);
  });
  box.replaceChildren(...shown.map((one) => one.element));
  say("Ranking …");
  const done = await Promise.all(wanted.map((one, place) => rank(one, shown[place], ids, signal)));
  if (signal.aborted) return;
  if (!done.every(Boolean)) return say("");
  if (kind === "compare") link(shown);
  const rows = shown[0].rows().length;
  say(kind === "compare" ? `Three lists of ${rows} items.` : `${rows} items, ranked by ${done[0].adapter}.`);
}

async function rank({ key, at }, shown, ids, signal) {
  const own = at === null || at === chosenOf(view.detail);
  const pair = view.detail.positions.find((one) => one[0] === at);
  const body = { history: ids, k: K, new_only: byId("new-only").checked };
  if (!own) body.coefficients = pair;
  shown.wait(null);
  try {
    const answer = await api.recommend(view.detail.name, body, signal, (share) => {
      shown.wait(share);
      say("Preparing this mix; the list changes when it is ready.");
    });
    if (signal.aborted) return null;
    shown.show(answer.items, (item, rank) => addFrom(key, item, rank));
    return answer;
  } catch (error) {
    if (signal.aborted) return null;
    if (!(error instanceof api.Failure) || error.status === 401) report(error, refresh);
    else shown.fail(error, refresh);
    return null;
  }
}

byId("new-only").addEventListener("change", () => view.detail && refresh());
for (const radio of document.querySelectorAll("[name=view]")) {
  radio.addEventListener("change", () => ((view.kind = radio.value), refresh()));
}

start();
