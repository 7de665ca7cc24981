// The page: puts search box, chips, grid and viewer together, and keeps them in step with the address.

import { best, categories, picture } from "./api.js";
import { drawCategories, drawExample } from "./chips.js";
import { byId, element } from "./dom.js";
import { Grid, title } from "./grid.js";
import { watchHealth } from "./health.js";
import { Results } from "./results.js";
import { NOTHING, format, isBlank, parse } from "./state.js";
import { Viewer } from "./viewer.js";

/** @typedef {import("./state.js").Search} Search */
/** @typedef {import("./api.js").Picture} Picture */

const EXAMPLES = [
  "a red boat at night",
  "two dogs in the snow",
  "a yellow flower",
  "a horse left of a castle",
  "a white horse in the forest",
  "three green apples",
  "a blue car in the street",
  "a pink cake",
];
const PLACEHOLDERS = 12;
/** How long an answer may take before grey cards replace the old pictures: a quick one causes no flicker. */
const PATIENCE_MS = 150;

const input = byId("query");
const checkHealth = watchHealth(byId("health"));

/** @type {Search} */
let search = NOTHING;
/** @type {Picture | null} */
let example = null;
/** @type {{value: string, count: number}[] | undefined} */
let counts;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let slow;
/** Whether the keyboard was among the pictures when they were replaced. */
let refocus = false;

// ---------------------------------------------------------------- what is seen

/** Shows one of the page's sections in place of the others, or none. @param {string} [id] */
function showSection(id) {
  for (const name of ["welcome", "nothing", "failure"]) byId(name).hidden = name !== id;
}

/** @param {...string} parts */
function say(...parts) {
  byId("status").replaceChildren(...parts.map((part) => element("span", {}, part)));
}

/** @param {import("./api.js").Page} page */
function sayFound({ totalCount, latencyMs, cached }) {
  const { value, relation } = totalCount;
  const total = `${value.toLocaleString("en")}${relation === "EXACT" ? "" : "+"}`;
  const shown = grid.edges.length < value ? `${grid.edges.length.toLocaleString("en")} of ` : "";
  const took = `${latencyMs.toFixed(latencyMs < 10 ? 1 : 0)} ms`;
  say(`${shown}${total} ${value === 1 ? "picture" : "pictures"}`, took, ...(cached ? ["cached"] : []));
}

/** Empties the grid and goes back to its top. @param {number} placeholders */
function renewGrid(placeholders) {
  clearTimeout(slow);
  showSection();
  grid.clear();
  grid.placehold(placeholders);
  scrollTo({ top: 0 });
}

/** Brings box, chips and title in line with the search. */
function drawSearch() {
  input.value = search.query;
  input.placeholder = search.like ? "Add words to narrow it down" : "A red boat at night";
  document.title = search.query ? `${search.query} · Sightline` : "Sightline";
  byId("widen").hidden = search.categories.length === 0;
  drawCategories(byId("categories"), counts, search.categories, toggle);
  drawExample(byId("like"), example, () => {
    go({ ...search, query: input.value.trim(), like: "" });
    input.focus();
  });
}

// ---------------------------------------------------------------- what happens

const grid = new Grid(byId("grid"), {
  open: (index) => viewer.open(index),
  like: moreLike,
  leave: () => input.focus(),
});

const viewer = new Viewer(byId("viewer"), {
  edges: () => grid.edges,
  like: moreLike,
  nearEnd: () => results.next(),
  closed: (index) => grid.focus(index),
});

const results = new Results({
  loading(fresh) {
    byId("grid").ariaBusy = "true";
    byId("end").hidden = true;
    if (fresh) {
      viewer.close();
      refocus = byId("grid").contains(document.activeElement);
      clearTimeout(slow);
      slow = setTimeout(renewGrid, PATIENCE_MS, PLACEHOLDERS);
    } else {
      showSection();
      grid.placehold(PLACEHOLDERS);
    }
  },
  loaded(page, fresh) {
    if (fresh) renewGrid(0);
    grid.append(page.edges);
    if (fresh && refocus) grid.focus(0);
    byId("grid").ariaBusy = "false";
    viewer.refresh();
    sayFound(page);
    showSection(grid.edges.length ? undefined : "nothing");
    byId("end").hidden = results.more || grid.edges.length === 0;
    if (fresh && counts?.length === 0) loadCategories();
    watchEnd();
  },
  waiting(milliseconds) {
    say(`The server is busy. Trying again in ${(milliseconds / 1000).toFixed(1)} s …`);
  },
  restarted() {
    counts = [];
  },
  failed({ code, message }, fresh) {
    if (fresh) renewGrid(0);
    grid.append([]);
    byId("grid").ariaBusy = "false";
    const [heading, reason] = byId("failure").children;
    heading.textContent = code === "NETWORK" ? "No connection." : "That did not work.";
    reason.textContent = message;
    showSection("failure");
    say();
    checkHealth();
  },
});

const sentinel = new IntersectionObserver(([entry]) => entry.isIntersecting && results.next(), { rootMargin: "900px" });

/** Looks again whether the end of the grid is near: an observer tells only of changes. */
function watchEnd() {
  sentinel.unobserve(byId("sentinel"));
  if (results.more) sentinel.observe(byId("sentinel"));
}

/** Shows a search, as the address has it now. @param {Search} next */
async function show(next) {
  search = next;
  if (example?.id !== search.like) example = null;
  drawSearch();
  if (isBlank(search)) {
    results.stop();
    renewGrid(0);
    byId("grid").ariaBusy = "false";
    say();
    byId("end").hidden = true;
    showSection("welcome");
    return;
  }
  results.start(search);
  if (search.like && !example) {
    const found = await picture(search.like).catch(() => null);
    if (search.like === found?.id) {
      example = found;
      drawSearch();
    }
  }
}

/** Takes a search into the address and shows it. @param {Search} next */
function go(next) {
  if (format(next) !== format(search)) history.pushState(null, "", format(next));
  show(next);
}

/** @param {Picture} node */
function moreLike(node) {
  example = node;
  go({ ...search, query: "", like: node.id });
}

/** @param {string} category */
function toggle(category) {
  const others = search.categories.filter((name) => name !== category);
  const chosen = others.length === search.categories.length ? [...others, category].sort() : others;
  go({ ...search, query: input.value.trim(), categories: chosen });
}

async function loadCategories() {
  counts = await categories().catch(() => []);
  drawCategories(byId("categories"), counts, search.categories, toggle);
}

/** Lists what one might ask, and then, when they come, the pictures it finds. */
async function loadExamples() {
  const cards = EXAMPLES.map((query) => {
    const place = element("div", { className: "place" });
    const link = element("a", { className: "sample", href: format({ ...NOTHING, query }) }, place, element("span", {}, query));
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go({ ...search, query });
    });
    return link;
  });
  byId("examples").replaceChildren(...cards.map((card) => element("li", {}, card)));
  /** @type {(Picture | undefined)[]} */
  const pictures = await best(EXAMPLES).catch(() => []);
  cards.forEach((card, i) => {
    const node = pictures[i];
    if (node) card.firstElementChild?.append(element("img", { src: node.thumbnailUrl ?? node.url, alt: "" }));
    else card.firstElementChild?.remove();
  });
}

// ---------------------------------------------------------------- who asks

byId("search").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  if (matchMedia("(hover: none)").matches) input.blur();
  go({ ...search, query: input.value.trim() });
});
byId("retry").addEventListener("click", () => (results.more ? results.next() : show(search)));
byId("widen").addEventListener("click", () => go({ ...search, categories: [] }));
input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  if (event.key === "ArrowDown" && grid.focus(0)) event.preventDefault();
  if (event.key === "Escape") {
    event.preventDefault();
    input.value = "";
  }
});
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey || byId("viewer").open) return;
  event.preventDefault();
  input.focus();
  input.select();
});
addEventListener("popstate", () => show(parse(location.search)));

show(parse(location.search));
loadCategories();
loadExamples();
