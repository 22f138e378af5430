// The document, changed only where it differs, so that what is selected,
// focused or being read stays.

const svgNames = new Set(["svg", "polyline", "polygon", "rect"]);

// make gives an element with attributes and children; strings become text.
export function make(name, attributes = {}, ...children) {
  const e = svgNames.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) set(e, key, value);
  e.append(...children);
  return e;
}

// set sets an attribute; null and false remove it.
export function set(e, key, value) {
  if (value === null || value === false) {
    if (e.hasAttribute(key)) e.removeAttribute(key);
  } else if (e.getAttribute(key) !== String(value)) {
    e.setAttribute(key, value);
  }
}

export function text(e, value) {
  value = String(value);
  if (e.textContent !== value) e.textContent = value;
}

// keep makes the children of a parent be those of a list, in its order: one
// element for each key, made once by build and brought up to date by fill.
export function keep(parent, list, key, build, fill) {
  const had = parent.kept ??= new Map();
  const has = new Map();
  if (had.size === 0) parent.replaceChildren();
  let place = parent.firstChild;
  for (const item of list) {
    const k = key(item);
    const e = had.get(k) ?? build(item);
    had.delete(k);
    has.set(k, e);
    fill(e, item);
    if (e === place) place = place.nextSibling;
    else parent.insertBefore(e, place);
  }
  for (const e of had.values()) e.remove();
  parent.kept = has;
}
