// Small helpers around the DOM.

/** `el("p", {className: "note"}, "text", child)`: an element with properties, `data-` and `aria-` attributes, children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria|data)-|^(role|for)$/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Copies text; also on a page served without TLS, where the clipboard API does not exist. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { value: text, className: "offscreen", readOnly: true });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

const SLOW_MS = 8; // half a frame at 60 Hz

/**
 * Calls `paint` at most once a frame however often the result is called; after a slow paint it leaves the page
 * three times that long for scrolling and typing.
 */
export function perFrame(paint) {
  let queued = false;
  let next = 0;
  const run = () => {
    if (performance.now() < next) return requestAnimationFrame(run);
    queued = false;
    const start = performance.now();
    paint();
    const cost = performance.now() - start;
    next = cost > SLOW_MS ? start + 4 * cost : 0;
  };
  return () => {
    if (!queued) requestAnimationFrame(run);
    queued = true;
  };
}
