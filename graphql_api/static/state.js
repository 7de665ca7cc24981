// What is being searched for. The address carries it, so that reload, back and a shared link show the same.

/**
 * @typedef {object} Search
 * @property {string} query words, or ""
 * @property {string[]} categories sorted; empty means all
 * @property {string} like id of an example picture, or ""
 */

/** @type {Readonly<Search>} */
export const NOTHING = Object.freeze({ query: "", categories: [], like: "" });

/**
 * The search that an address's query string asks for.
 * @param {string} address
 * @returns {Search}
 */
export function parse(address) {
  const asked = new URLSearchParams(address);
  return {
    query: (asked.get("q") ?? "").trim(),
    categories: [...new Set(asked.getAll("category"))].filter(Boolean).sort(),
    like: asked.get("like") ?? "",
  };
}

/**
 * The address of a search: `parse` of its query string gives it back.
 * @param {Search} search
 */
export function format({ query, categories, like }) {
  const asked = new URLSearchParams();
  if (query) asked.set("q", query);
  for (const category of categories) asked.append("category", category);
  if (like) asked.set("like", like);
  return asked.size ? `?${asked}` : "/";
}

/**
 * Whether there is nothing to search for: a category alone ranks nothing.
 * @param {Search} search
 */
export const isBlank = ({ query, like }) => !query && !like;
