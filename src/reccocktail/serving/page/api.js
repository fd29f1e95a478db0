// The service over HTTP: keys, errors as its own sentences, mixes that are not ready yet.

const KEY = "reccocktail-key"; // of this tab, gone when it is closed
const PATIENCE = 30_000; // ms; the service itself gives up earlier

/** An error to show; `again`: the same request may succeed later. */
export class Failure extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
    this.again = status === 0 || status === 429 || status >= 500;
  }
}

let key = null;
try {
  key = sessionStorage.getItem(KEY);
} catch {} // a browser that stores nothing: the key lasts as long as the page

export function setKey(given) {
  key = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {}
}

export const domains = () => call("");

export const domain = (name, signal) => call(`/${encodeURIComponent(name)}`, { signal });

/** Items whose titles hold the words. */
export const search = (name, words, signal) => items(name, { q: words, limit: 8 }, signal);

/** Items by id; unknown ids are left out. */
export const lookUp = (name, ids, signal) => items(name, ids.map((id) => ["id", id]), signal);

async function items(name, query, signal) {
  const path = `/${encodeURIComponent(name)}/items?${new URLSearchParams(query)}`;
  return (await call(path, { signal })).items;
}

/** The best items; waits for a mix that is being prepared and tells `onShare` how far it is. */
export async function recommend(name, body, signal, onShare) {
  for (;;) {
    const answer = await call(`/${encodeURIComponent(name)}/recommend`, { body, signal });
    if (answer.status !== 202) return answer;
    onShare(answer.share ?? 0);
    await pause(1000 * answer.retryAfter, signal);
  }
}

async function call(path, { body, signal } = {}) {
  const late = AbortSignal.timeout(PATIENCE);
  let response, content;
  try {
    response = await fetch(`v1/domains${path}`, {
      method: body ? "POST" : "GET",
      headers: {
        ...(key && { "X-API-Key": key }),
        ...(body && { "Content-Type": "application/json" }),
      },
      body: body && JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, late]) : late,
    });
    content = await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = late.aborted ? "took too long to answer" : "does not answer";
    throw new Failure(`The service ${why}; see whether it runs and try again.`);
  }
  if (!response.ok) {
    const sentence = content?.detail ?? `The service answers ${response.status}.`;
    throw new Failure(String(sentence), response.status);
  }
  if (response.status === 202) {
    const retryAfter = Math.min(Math.max(Number(response.headers.get("Retry-After")) || 1, 0.2), 60);
    return { ...content, status: 202, retryAfter };
  }
  return content;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)));
  });
}
