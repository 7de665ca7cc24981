// The chips: categories to switch on and off, and the example picture of a "more like this" search.

import { element } from "./dom.js";
import { title } from "./grid.js";

/** @typedef {import("./api.js").Picture} Picture */

/**
 * Draws the categories as switches; one that is chosen but holds no picture comes last, so that it can be switched off.
 * @param {HTMLElement} box
 * @param {{value: string, count: number}[] | undefined} counts undefined until they are known: their place is kept
 * @param {string[]} chosen
 * @param {(category: string) => void} toggle
 */
export function drawCategories(box, counts, chosen, toggle) {
  const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.category;
  const known = new Set(counts?.map(({ value }) => value));
  const strangers = chosen.filter((value) => !known.has(value)).map((value) => ({ value, count: 0 }));
  const chips = [...(counts ?? []), ...strangers].map(({ value, count }) => {
    const chip = element(
      "button",
      { type: "button", className: "chip", "aria-pressed": chosen.includes(value), "data-category": value },
      value,
      element("span", { className: "count" }, count.toLocaleString("en")),
    );
    chip.addEventListener("click", () => toggle(value));
    return chip;
  });
  box.replaceChildren(...chips);
  box.hidden = counts !== undefined && chips.length === 0;
  chips.find((chip) => chip.dataset.category === focused)?.focus();
}

/**
 * Draws the example picture, with a button that takes it away; hides the place when there is none.
 * @param {HTMLElement} box
 * @param {Picture | null} example
 * @param {() => void} remove
 */
export function drawExample(box, example, remove) {
  box.hidden = example === null;
  box.replaceChildren();
  if (example === null) return;
  const image = element("img", { src: example.thumbnailUrl ?? example.url, alt: "", width: 28, height: 28 });
  const button = element("button", { type: "button", className: "chip example", title: "Remove the example picture" });
  button.setAttribute("aria-label", `Remove the example picture: ${title(example)}`);
  button.append(image, element("span", {}, "like this"), element("span", { className: "cross" }, "×"));
  button.addEventListener("click", remove);
  box.append(button);
}
