// What the last answer said of the limits that hold for this key.

let known = [];

/** Remember the limits that an answer's headers name. */
export function noteLimits(headers) {
  const named = ["requests", "tokens"].map((what) => limitOf(headers, what)).filter(Boolean);
  if (named.length) known = named;
}

/** @returns {{what: string, limit: number, used: number}[]} as the last answer had them; empty when nothing is limited. */
export const knownLimits = () => known;

function limitOf(headers, what) {
  const read = (kind) => Number(headers.get(`x-ratelimit-${kind}-${what}`) ?? headers.get(`anthropic-ratelimit-${what}-${kind}`) ?? NaN);
  const limit = read("limit");
  const remaining = read("remaining");
  return limit > 0 && remaining >= 0 ? { what, limit, used: Math.max(limit - remaining, 0) } : null;
}
