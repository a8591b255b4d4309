// Markdown as it grows. The text is cut into top-level blocks; only the last one can still change, so only that one is
// parsed, sanitised and drawn again. Raw HTML in a model's answer is shown as text, and pictures become links: a
// picture's address could carry the conversation to somebody else's server.

import { Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";
import { library, pending } from "./lazy.js";
import { mathExtensions, openFormula } from "./math.js";

const PLAIN_WHILE_OPEN = 8000; // characters: a longer code block is coloured once, when it is complete

const LONG_CELL = 40; // characters: a cell that may wrap, but not to a column of single words

const escapeHTML = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function coloured(text, language) {
  const highlighter = language ? library("highlight") : null;
  return highlighter?.getLanguage(language) ? highlighter.highlight(text, { language }).value : escapeHTML(text);
}

const marked = new Marked({
  gfm: true,
  extensions: mathExtensions(escapeHTML),
  renderer: {
    html: ({ text }) => escapeHTML(text),
    image: ({ href, text }) => `<a href="${escapeHTML(href)}">${escapeHTML(text || href)}</a>`,
    code({ text, lang, open }) {
      const language = (lang ?? "").match(/^\S*/)[0].toLowerCase();
      const body = open && text.length > PLAIN_WHILE_OPEN ? escapeHTML(text) : coloured(text, language);
      const head = `<div class="code-head"><span>${escapeHTML(language)}</span></div>`;
      return `<div class="code" data-language="${escapeHTML(language)}">${head}<pre><code>${body}\n</code></pre></div>`;
    },
  },
});

const PLAIN_ATTRIBUTES = [
  ...["title", "class", "start", "type", "checked", "disabled", "align"],
  ...["display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "separator", "form", "lspace"],
  ...["rspace", "minsize", "maxsize", "symmetric", "largeop", "movablelimits", "accent", "accentunder"],
  ...["linethickness", "columnalign", "width", "height", "depth", "voffset", "notation"],
];

const ALLOWED = {
  ALLOWED_TAGS: [
    ...["a", "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "strong", "em", "del"],
    ...["code", "pre", "span", "div", "table", "thead", "tbody", "tr", "th", "td", "input"],
    ...["math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "ms", "msup", "msub", "msubsup", "mfrac", "msqrt", "mroot"],
    ...["mover", "munder", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose"],
    ...["mprescripts", "mmultiscripts"],
  ],
  ALLOWED_ATTR: ["href", ...PLAIN_ATTRIBUTES],
  ADD_URI_SAFE_ATTR: PLAIN_ATTRIBUTES, // or DOMPurify holds their values against the next line as well
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  if (node.tagName === "TD" && node.textContent.length > LONG_CELL) node.classList.add("long");
});

/**
 * The leading blocks that no later text can change. Pure. Whole lines decide: half a line can look like another block.
 * @returns {{tokens: object[], length: number}} marked tokens, and how many characters of `text` they cover
 */
export function settled(text) {
  const lines = text.slice(0, text.lastIndexOf("\n") + 1);
  const tokens = blocks(lines);
  const last = tokens.findLastIndex(({ type }) => type !== "space");
  const limit = openFormula(lines);
  let count = 0;
  let length = 0;
  while (count < last && length + tokens[count].raw.length <= limit) length += tokens[count++].raw.length;
  return { tokens: tokens.slice(0, count), length };
}

const fragment = (tokens) => DOMPurify.sanitize(marked.parser(tokens), ALLOWED);

/** What `read` gives, or `otherwise` for text nested so deeply (5,000 ">") that the parser's recursion has no room. */
function within(read, otherwise) {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) return otherwise;
    throw error;
  }
}

const blocks = (text) => within(() => marked.lexer(text), [{ type: "plain", raw: text }]);

function plain(text) {
  const drawn = document.createDocumentFragment();
  drawn.append(Object.assign(document.createElement("p"), { textContent: text }));
  return drawn;
}

const isPlain = ({ type }) => type === "plain";
const rawText = (tokens) => tokens.map(({ raw }) => raw).join("");

/** A growing Markdown text inside `root`. */
export class MarkdownView {
  #root;
  #text = "";
  #settled = 0;
  #openNodes = [];
  #drawn;

  /** `drawn` is called after each drawing, also after one more when a library has come. */
  constructor(root, drawn = () => {}) {
    this.#root = root;
    this.#drawn = drawn;
  }

  /** Draws `text`; cheap when it only grew at the end. With `final` everything is drawn in its last form. */
  update(text, { final = false } = {}) {
    const source = text.replace(/\r\n?/g, "\n");
    if (final || !source.startsWith(this.#text)) return this.#redraw(source);
    if (source === this.#text) return undefined;
    const newLine = source.indexOf("\n", this.#text.length) >= 0;
    this.#text = source;
    for (const node of this.#openNodes) node.remove();
    if (newLine) this.#settle(source.slice(this.#settled));
    const open = blocks(source.slice(this.#settled));
    this.#openNodes = this.#append(open.map((token) => ({ ...token, open: true })));
    this.#drawn();
    return undefined;
  }

  #settle(text) {
    const { tokens, length } = settled(text);
    this.#settled += length;
    this.#append(tokens);
  }

  #append(tokens) {
    const drawn = tokens.some(isPlain)
      ? plain(rawText(tokens))
      : within(() => fragment(tokens), null) ?? plain(rawText(tokens));
    const nodes = [...drawn.childNodes];
    this.#root.append(drawn);
    return nodes;
  }

  #redraw(source) {
    this.#text = source;
    this.#settled = 0;
    this.#root.replaceChildren();
    this.#openNodes = this.#append(blocks(source));
    this.#drawn();
    pending()?.then(() => this.#text === source && this.#redraw(source));
  }
}
