// One search after another, page by page. A new search ends the one before; nothing late is ever shown.

import { Failure, page } from "./api.js";

/** @typedef {import("./state.js").Search} Search */
/** @typedef {import("./api.js").Page} Page */

const MOST_WAITS = 5;

/**
 * @typedef {object} View what is told of a search as it goes
 * @property {(fresh: boolean) => void} loading a page is on its way; `fresh` when it is a search's first
 * @property {(page: Page, fresh: boolean) => void} loaded
 * @property {(milliseconds: number) => void} waiting the server is overloaded and will be asked again by itself
 * @property {() => void} restarted the index changed under the search, which begins again
 * @property {(failure: Failure, fresh: boolean) => void} failed
 */

/** Waits, unless the signal fires first. */
function pause(/** @type {number} */ milliseconds, /** @type {AbortSignal} */ signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

export class Results {
  /** @type {Search | undefined} */ #search;
  /** @type {string | null} */ #cursor = null;
  #more = false;
  #busy = false;
  #abort = new AbortController();
  #view;

  /** @param {View} view */
  constructor(view) {
    this.#view = view;
  }

  /** Begins a search and ends the one before. @param {Search} search */
  start(search) {
    this.stop();
    this.#search = search;
    return this.#load(null);
  }

  /** Ends the search, whatever it was doing. */
  stop() {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#search = undefined;
    this.#more = this.#busy = false;
  }

  /** Whether there is another page that can be asked for now. */
  get more() {
    return this.#more && !this.#busy;
  }

  /** Loads the next page, if there is one and it is not on its way already. */
  next() {
    return this.more ? this.#load(this.#cursor) : undefined;
  }

  /** @param {string | null} cursor */
  async #load(cursor) {
    const search = /** @type {Search} */ (this.#search);
    const { signal } = this.#abort;
    this.#busy = true;
    this.#view.loading(cursor === null);
    try {
      const found = await this.#patiently(search, cursor, signal);
      this.#cursor = found.pageInfo.endCursor;
      this.#more = found.pageInfo.hasNextPage;
      this.#busy = false;
      this.#view.loaded(found, cursor === null);
    } catch (error) {
      if (signal.aborted) return;
      this.#busy = false;
      if (!(error instanceof Failure)) throw error;
      if (error.code === "CURSOR_STALE" && cursor !== null) {
        this.#view.restarted();
        await this.start(search);
        return;
      }
      this.#more = cursor !== null;
      this.#view.failed(error, cursor === null);
    }
  }

  /**
   * A page, asked for again after as long as an overloaded server says.
   * @param {Search} search
   * @param {string | null} cursor
   * @param {AbortSignal} signal
   */
  async #patiently(search, cursor, signal) {
    for (let waits = 0; ; waits += 1) {
      try {
        return await page(search, cursor, signal);
      } catch (error) {
        if (!(error instanceof Failure) || error.code !== "OVERLOADED" || waits === MOST_WAITS) throw error;
        const milliseconds = error.retryAfterMs ?? 1000;
        this.#view.waiting(milliseconds);
        await pause(milliseconds, signal);
      }
    }
  }
}
