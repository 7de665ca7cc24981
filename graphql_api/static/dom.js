// Makes elements. Data only ever becomes text or an attribute, never markup.

/**
 * An element with properties, `data-*` and `aria-*` attributes among them, and children.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string)} children strings become text
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, String(value));
    else Object.assign(made, { [name]: value });
  }
  made.append(...children);
  return made;
}

/**
 * The page's element of this id.
 * @param {string} id
 * @returns {any}
 */
export const byId = (id) => document.getElementById(id);
