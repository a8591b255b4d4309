// Runs before the first paint (a plain script, not a module), so that a dark page never flashes white.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "";
  const apply = () => {
    document.documentElement.dataset.theme = chosen || (dark.matches ? "dark" : "light");
  };
  try {
    chosen = JSON.parse(localStorage.getItem("qwen.settings") || "{}").theme || "";
  } catch (cause) {
    console.warn("theme setting is unreadable", cause);
  }
  dark.addEventListener("change", apply);
  window.setTheme = (theme) => {
    chosen = theme;
    apply();
  };
  apply();
})();
