// The pictures, best first: cards, their placeholders, and moving among them with the arrow keys.

import { element } from "./dom.js";

/** @typedef {import("./api.js").Edge} Edge */
/** @typedef {import("./api.js").Picture} Picture */

/**
 * What a picture shows, in words: its caption, or else its file's name.
 * @param {Picture} picture
 */
export function title({ metadata, fileName }) {
  const caption = metadata?.caption;
  return typeof caption === "string" && caption ? caption : (fileName ?? "Picture");
}

/** A cosine similarity as people read it. @param {number} score */
export const formatScore = (score) => score.toFixed(3);

export class Grid {
  /** @type {Edge[]} */ edges = [];
  #list;
  #open;
  #like;
  #leave;

  /**
   * @param {HTMLUListElement} list
   * @param {{open: (index: number) => void, like: (picture: Picture) => void, leave: () => void}} actions
   *   `leave`: the keyboard went up and out of the first row
   */
  constructor(list, { open, like, leave }) {
    this.#list = list;
    this.#open = open;
    this.#like = like;
    this.#leave = leave;
    list.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("focusin", (event) => this.#rove(this.#indexOf(event.target)));
  }

  clear() {
    this.edges = [];
    this.#list.replaceChildren();
  }

  /** Shows grey cards at the end until `append` or `clear`. @param {number} count */
  placehold(count) {
    this.#unplacehold();
    this.#list.append(...Array.from({ length: count }, () => element("li", { className: "card blank", ariaHidden: "true" })));
  }

  /** @param {Edge[]} edges */
  append(edges) {
    this.#unplacehold();
    const start = this.edges.length;
    this.edges.push(...edges);
    this.#list.append(...edges.map((edge, i) => this.#card(edge, start + i)));
  }

  /** Takes the keyboard to a picture; false when there is none. @param {number} index */
  focus(index) {
    const card = index < this.edges.length ? this.#list.children[index] : undefined;
    const button = /** @type {HTMLElement | undefined} */ (card?.querySelector(".open"));
    button?.focus();
    button?.scrollIntoView({ block: "nearest" });
    return Boolean(button);
  }

  #unplacehold() {
    for (const blank of this.#list.querySelectorAll(".blank")) blank.remove();
  }

  /**
   * @param {Edge} edge
   * @param {number} index
   */
  #card({ node, score }, index) {
    const name = title(node);
    const tabIndex = index === 0 ? 0 : -1;
    const image = element("img", {
      src: node.thumbnailUrl ?? node.url,
      alt: name,
      width: node.width ?? 4,
      height: node.height ?? 3,
      loading: "lazy",
      decoding: "async",
    });
    image.addEventListener("error", () => image.classList.add("broken"));
    const open = element("button", { type: "button", className: "open", tabIndex, "aria-haspopup": "dialog" }, image);
    const like = element("button", { type: "button", className: "like", tabIndex }, "More like this");
    like.setAttribute("aria-label", `More like this: ${name}`);
    open.addEventListener("click", () => this.#open(index));
    like.addEventListener("click", () => this.#like(node));
    const about = element(
      "p",
      { className: "about" },
      element("span", { className: "title", title: name }, name),
      element("span", { className: "score", title: "Cosine similarity to what you asked for" }, formatScore(score)),
    );
    return element("li", { className: "card", "data-id": node.id }, open, like, about);
  }

  /** @param {EventTarget | null} target */
  #indexOf(target) {
    const card = target instanceof Element ? target.closest(".card") : null;
    return card ? [...this.#list.children].indexOf(card) : -1;
  }

  /** Makes one card the only one that Tab reaches. @param {number} index */
  #rove(index) {
    for (const button of this.#list.querySelectorAll('[tabindex="0"]')) button.setAttribute("tabindex", "-1");
    for (const button of this.#list.children[index]?.querySelectorAll("button") ?? []) button.tabIndex = 0;
  }

  /** How many cards stand in a row. */
  get #columns() {
    const cards = /** @type {HTMLElement[]} */ ([...this.#list.children]);
    const below = cards.findIndex((card) => card.offsetTop > cards[0].offsetTop);
    return below === -1 ? cards.length : below;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const index = this.#indexOf(event.target);
    const last = this.edges.length - 1;
    const columns = this.#columns;
    /** @type {Record<string, number>} */
    const targets = {
      ArrowRight: Math.min(index + 1, last),
      ArrowLeft: Math.max(index - 1, 0),
      ArrowDown: index + columns <= last ? index + columns : last,
      ArrowUp: index - columns,
      Home: 0,
      End: last,
    };
    if (index === -1 || !(event.key in targets)) return;
    event.preventDefault();
    if (targets[event.key] < 0) this.#leave();
    else this.focus(targets[event.key]);
  }
}
