// TeX formulas as models write them: \( … \), \[ … \], $$ … $$ and $ … $ (not a price: no space inside, no digit after).
// Drawn as MathML, which browsers show themselves: no fonts, no inline styles.

import { library } from "./lazy.js";

const INLINE = [/^\\\((.+?)\\\)/s, /^\$(?![\s$])((?:\\.|[^\\$\n])+?)(?<!\s)\$(?![\d$])/];
const DISPLAY = [/^ {0,3}\\\[(.+?)\\\][ \t]*(?:\n|$)/s, /^ {0,3}\$\$(.+?)\$\$[ \t]*(?:\n|$)/s];
const DISPLAY_INLINE = [/^\\\[(.+?)\\\]/s, /^\$\$(.+?)\$\$/s];

function first(patterns, source) {
  for (const pattern of patterns) {
    const match = pattern.exec(source);
    if (match && !match[1].includes("\n\n")) return match;
  }
  return null;
}

function render(token, escape) {
  const temml = library("temml");
  if (!temml) return `<code>${escape(token.raw.trim())}</code>`;
  try {
    const drawn = temml.renderToString(token.tex, { displayMode: token.display, throwOnError: true });
    return drawn.replace(/ style="[^"]*"/g, ""); // forbidden by the page's content security policy, and not needed
  } catch (cause) {
    if (cause instanceof temml.ParseError) return `<code>${escape(token.raw.trim())}</code>`; // not TeX after all
    throw cause;
  }
}

/** Where a display formula begins whose end has not come yet: its lines may still look like lists or tables. */
export function openFormula(text) {
  const starts = [text.lastIndexOf("\\["), text.lastIndexOf("$$")].filter((start) => start >= 0);
  const open = starts.filter((start) => !/\\\]|\$\$|\n\n/.test(text.slice(start + 2)));
  return open.length ? Math.min(...open) : text.length;
}

/** marked extensions. `escape` makes text safe inside HTML. */
export const mathExtensions = (escape) => [
  {
    name: "mathBlock",
    level: "block",
    start: (source) => source.match(/(?:^|\n) {0,3}(?:\\\[|\$\$)/)?.index,
    tokenizer(source) {
      const match = first(DISPLAY, source);
      return match ? { type: "mathBlock", raw: match[0], tex: match[1].trim(), display: true } : undefined;
    },
    renderer: (token) => `<div class="math">${render(token, escape)}</div>`,
  },
  {
    name: "mathInline",
    level: "inline",
    start: (source) => source.match(/\\[([]|\$/)?.index,
    tokenizer(source) {
      const shown = first(DISPLAY_INLINE, source);
      const match = shown ?? first(INLINE, source);
      return match ? { type: "mathInline", raw: match[0], tex: match[1].trim(), display: Boolean(shown) } : undefined;
    },
    renderer: (token) => render(token, escape),
  },
];
