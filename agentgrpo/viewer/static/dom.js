// Makes elements. Text is always text: nothing here, or anywhere on this page, turns a string into HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element. `props`: class, title, on (events), data, style (properties), or plain attributes. */
export function h(tag, props = {}, ...children) {
  return dress(document.createElement(tag), props, children);
}

/** Return an SVG element. */
export function svg(tag, props = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), props, children);
}

function dress(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

/** Append nodes, texts and lists of them; null, undefined and false add nothing. */
export function add(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(node, child);
    else if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** Put new children in the place of the old ones. */
export function fill(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

/** Return a text that, where there is no room, is cut before its last signs: the ends of names tell them apart. */
export function cut(text, kind = "cut") {
  const at = text.length - (/[\udc00-\udfff]/.test(text.at(-5) || "") ? 6 : 5);
  return h("span", { class: kind, title: text }, at < 5 ? text : [h("span", { class: "cut-head" }, text.slice(0, at)), text.slice(at)]);
}

/** Return a function that calls `act` once, `wait` ms after its last call. */
export function settle(act, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...args), wait);
  };
}
