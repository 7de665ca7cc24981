// One picture, large, with everything known about it. The arrow keys go on to its neighbours, Escape closes.

import { element } from "./dom.js";
import { formatScore, title } from "./grid.js";

/** @typedef {import("./api.js").Edge} Edge */
/** @typedef {import("./api.js").Picture} Picture */

/**
 * A metadata value in words.
 * @param {unknown} value
 * @returns {string}
 */
function inWords(value) {
  if (Array.isArray(value)) return value.map(inWords).join(" · ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value)
      .map(([name, part]) => `${name} ${inWords(part)}`)
      .join(", ");
  }
  return String(value);
}

/**
 * What is known about a picture, as rows of name and value.
 * @param {Edge} edge
 * @returns {[string, string][]}
 */
function facts({ rank, score, node }) {
  const { caption, category, ...rest } = node.metadata ?? {};
  /** @type {[string, unknown][]} */
  const rows = [
    ["match", `${formatScore(score)}, number ${rank.toLocaleString("en")}`],
    ["category", node.category ?? category],
    ["file", node.fileName],
    ["size", node.width && node.height ? `${node.width} × ${node.height} px` : null],
    ...Object.entries(rest).filter(([, value]) => value !== node.fileName),
  ];
  return rows.filter(([, value]) => value != null && value !== "").map(([name, value]) => [name, inWords(value)]);
}

/** Whether a link may lead there: anything but a web address could run as code. @param {string} address */
const isWeb = (address) => ["http:", "https:"].includes(new URL(address, location.href).protocol);

export class Viewer {
  #dialog;
  #edges;
  #nearEnd;
  #index = 0;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {{edges: () => Edge[], like: (picture: Picture) => void, nearEnd: () => void, closed: (index: number) => void}} page
   *   `nearEnd`: the last loaded picture is in sight; `closed`: back to the grid, at this picture
   */
  constructor(dialog, { edges, like, nearEnd, closed }) {
    this.#dialog = dialog;
    this.#edges = edges;
    this.#nearEnd = nearEnd;
    this.#button(".previous").addEventListener("click", () => this.#step(-1));
    this.#button(".next").addEventListener("click", () => this.#step(1));
    this.#button(".like").addEventListener("click", () => {
      const { node } = edges()[this.#index];
      dialog.close();
      like(node);
    });
    // Back to the grid at once: the dialog's own close event comes a frame later, when the keyboard may have moved on.
    const leave = (/** @type {Event} */ event) => {
      event.preventDefault();
      dialog.close();
      closed(this.#index);
    };
    this.#button(".close").addEventListener("click", leave);
    dialog.addEventListener("cancel", leave);
    dialog.addEventListener("click", (event) => event.target === dialog && leave(event));
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave(event);
      if (event.key === "ArrowLeft") this.#step(-1);
      if (event.key === "ArrowRight") this.#step(1);
    });
  }

  /** @param {number} index */
  open(index) {
    this.#show(index);
    this.#dialog.showModal();
    this.#button(".close").focus();
  }

  close() {
    this.#dialog.close();
  }

  /** Draws again, after more pictures have come. */
  refresh() {
    if (this.#dialog.open) this.#bound();
  }

  /** @param {string} selector @returns {HTMLButtonElement} */
  #button(selector) {
    return /** @type {HTMLButtonElement} */ (this.#dialog.querySelector(`button${selector}`));
  }

  /** @param {number} by */
  #step(by) {
    const index = this.#index + by;
    if (index >= 0 && index < this.#edges().length) this.#show(index);
  }

  /** @param {number} index */
  #show(index) {
    this.#index = index;
    const edge = this.#edges()[index];
    const { node } = edge;
    const image = /** @type {HTMLImageElement} */ (this.#dialog.querySelector(".stage img"));
    image.alt = title(node);
    image.src = node.thumbnailUrl ?? node.url;
    this.#sharpen(image, node);
    const heading = /** @type {HTMLElement} */ (this.#dialog.querySelector("h2"));
    heading.textContent = title(node);
    const rows = facts(edge).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    /** @type {HTMLElement} */ (this.#dialog.querySelector("dl")).replaceChildren(...rows);
    const original = /** @type {HTMLAnchorElement} */ (this.#dialog.querySelector(".original"));
    original.hidden = !node.url || !isWeb(node.url);
    if (original.hidden) original.removeAttribute("href");
    else original.href = node.url;
    this.#bound();
    if (index >= this.#edges().length - 2) this.#nearEnd();
  }

  #bound() {
    this.#button(".previous").disabled = this.#index === 0;
    this.#button(".next").disabled = this.#index >= this.#edges().length - 1;
    // A disabled button loses the keyboard, and the arrow keys would go nowhere.
    if (this.#dialog.open && !this.#dialog.contains(document.activeElement)) this.#button(".close").focus();
  }

  /**
   * Swaps the thumbnail for the whole picture once that is here, if it is still the one shown.
   * @param {HTMLImageElement} image
   * @param {Picture} node
   */
  #sharpen(image, node) {
    if (!node.url) return;
    const whole = new Image();
    whole.addEventListener("load", () => {
      if (this.#edges()[this.#index]?.node.id === node.id) image.src = whole.src;
    });
    whole.src = node.url;
  }
}
