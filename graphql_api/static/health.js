// The dot in the footer: whether the server is there and well. Asked now and then, and only while the page is seen.

import { health } from "./api.js";

const EVERY_MS = 20_000;
/** @type {Record<string, string>} */
const WORDS = { healthy: "server healthy", degraded: "server degraded", down: "server not reachable" };

/**
 * Keeps the dot up to date.
 * @param {HTMLElement} box
 * @returns {() => Promise<void>} asks again now
 */
export function watchHealth(box) {
  const ask = async () => {
    const state = await health().catch(() => "down");
    box.dataset.health = state;
    /** @type {HTMLElement} */ (box.lastElementChild).textContent = WORDS[state] ?? state;
  };
  setInterval(() => document.visibilityState === "visible" && ask(), EVERY_MS);
  ask();
  return ask;
}
