// What is looked at, in the hash of the address: a link shows the same to somebody else.

export const MOST_ITEMS = 100; // of a history; as many as the service looks up at once

/** Domain, item ids, first coefficient and view of the address; what makes no sense is left out. */
export function read() {
  const query = new URLSearchParams(location.hash.slice(1));
  const ids = query.getAll("item").filter((id) => id.length > 0 && id.length <= 256);
  const at = query.get("mix");
  return {
    domain: query.get("domain"),
    ids: [...new Set(ids)].slice(0, MOST_ITEMS),
    at: at !== null && at !== "" && Number.isFinite(Number(at)) ? Number(at) : null,
    view: query.get("view") === "compare" ? "compare" : "list",
  };
}

/** Put it there; no entry of the browser's history is made. */
export function write({ domain, ids, at, view }) {
  const query = new URLSearchParams({ domain });
  for (const id of ids) query.append("item", id);
  if (at !== null) query.set("mix", String(at));
  if (view !== "list") query.set("view", view);
  history.replaceState(null, "", `#${query}`);
}
