// The color theme that the reader chose, applied before the first paint so that nothing flashes.
(() => {
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  const { media } = rules.find((rule) => rule.media?.mediaText.includes("prefers-color-scheme"));
  const preferred = media.mediaText;
  const conditions = { light: "not all", dark: "all" };
  const apply = () => {
    media.mediaText = conditions[localStorage.getItem("theme")] ?? preferred;
  };
  apply();
  document.addEventListener("theme", apply);
})();
