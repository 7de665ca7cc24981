// The only file that speaks GraphQL: what the page asks the server, and what can go wrong.

/** @typedef {import("./state.js").Search} Search */
/** @typedef {{id: string, fileName: string | null, url: string, thumbnailUrl: string | null, width: number | null, height: number | null,
 *             category: string | null, metadata: Record<string, unknown> | null}} Picture */
/** @typedef {{rank: number, score: number, node: Picture}} Edge */
/** @typedef {{edges: Edge[], pageInfo: {hasNextPage: boolean, endCursor: string | null},
 *             totalCount: {value: number, relation: "EXACT" | "AT_LEAST"}, latencyMs: number, cached: boolean}} Page */

const PAGE_SIZE = 24;

const PICTURE = "id fileName url thumbnailUrl width height category metadata";
const PAGE = `
  query Gallery($query: String, $terms: [SearchTerm!], $filter: ImageFilter, $first: Int!, $after: String) {
    search(query: $query, terms: $terms, filter: $filter, first: $first, after: $after) {
      edges { rank score node { ${PICTURE} } }
      pageInfo { hasNextPage endCursor }
      totalCount { value relation }
      latencyMs
      cached
    }
  }`;
const ONE = `query Picture($id: ID!) { image(id: $id) { ${PICTURE} } }`;
const CATEGORIES = 'query Categories { facets(fields: [{ path: "category", first: 100 }]) { values { value count } } }';
const HEALTH = "query Health { health { status } }";

/** Why there is no answer. `code` is the server's, or "NETWORK" when it could not be reached. */
export class Failure extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {number} [retryAfterMs]
   */
  constructor(code, message, retryAfterMs) {
    super(message);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * The data of one GraphQL request.
 * @param {string} query
 * @param {Record<string, unknown>} [variables]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 * @throws {Failure} and, when the signal fires, an AbortError
 */
async function ask(query, variables = {}, signal = undefined) {
  let response, answer;
  try {
    response = await fetch("/graphql", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/graphql-response+json, application/json" },
      body: JSON.stringify({ query, variables }),
      signal,
    });
    answer = await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (response) throw new Failure("NETWORK", `The server answered ${response.status} without a result.`);
    throw new Failure("NETWORK", "The server can’t be reached. Is it still running?");
  }
  const [problem] = answer.errors ?? [];
  if (problem) throw new Failure(problem.extensions?.code ?? "", problem.message, problem.extensions?.retryAfterMs);
  return answer.data;
}

/**
 * One page of a search's pictures, best first.
 * @param {Search} search
 * @param {string | null} after end cursor of the page before; null for the first
 * @param {AbortSignal} signal
 * @returns {Promise<Page>}
 */
export async function page({ query, categories, like }, after, signal) {
  const terms = [];
  if (query) terms.push({ source: { text: query } });
  if (like) terms.push({ source: { imageId: like } });
  const what = like ? { terms } : { query };
  const filter = categories.length ? { category: categories } : null;
  return (await ask(PAGE, { ...what, filter, first: PAGE_SIZE, after }, signal)).search;
}

/**
 * One picture, or null when the index has none of that id.
 * @param {string} id
 * @returns {Promise<Picture | null>}
 */
export const picture = async (id) => (await ask(ONE, { id })).image;

/**
 * Every category with how many pictures it has, most frequent first.
 * @returns {Promise<{value: string, count: number}[]>}
 */
export const categories = async () => (await ask(CATEGORIES)).facets[0]?.values ?? [];

/**
 * The best picture of each query, in one request.
 * @param {string[]} queries
 * @returns {Promise<(Picture | undefined)[]>}
 */
export async function best(queries) {
  const names = queries.map((_, i) => `$q${i}: String!`).join(", ");
  const fields = queries.map((_, i) => `s${i}: search(query: $q${i}, first: 1) { edges { node { ${PICTURE} } } }`);
  const variables = Object.fromEntries(queries.map((query, i) => [`q${i}`, query]));
  const data = await ask(`query Examples(${names}) { ${fields.join("\n")} }`, variables);
  return queries.map((_, i) => data[`s${i}`].edges[0]?.node);
}

/**
 * The server's own word on how it is: "healthy" or "degraded".
 * @returns {Promise<string>}
 */
export const health = async () => (await ask(HEALTH)).health.status.toLowerCase();
