// Libraries that most answers do not need: loaded when the first code block or formula asks for them.

const loaded = {};
const loading = {};

const PATHS = { highlight: "../vendor/highlight.js", temml: "../vendor/temml.js" };

/** The library, or null while it is on its way: draw something plain, and again after `pending()`. */
export function library(name) {
  loading[name] ??= import(PATHS[name]).then((module) => (loaded[name] = module.default));
  return loaded[name] ?? null;
}

/** Whether something is on its way; a promise of its arrival. */
export function pending() {
  const names = Object.keys(loading).filter((name) => !loaded[name]);
  return names.length ? Promise.all(names.map((name) => loading[name])) : null;
}
