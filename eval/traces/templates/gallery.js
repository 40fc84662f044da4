"use strict";
(() => {
  const all = [...document.querySelectorAll("article.trace")];
  const chosen = { verdict: new Set(), kind: new Set(), check: new Set() };
  const search = document.getElementById("search");
  const count = document.getElementById("count");
  const none = document.getElementById("none");
  const help = document.getElementById("keys");
  let current = -1;

  const visible = () => all.filter((a) => !a.hidden);

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const article of all) {
      const fits = Object.entries(chosen).every(([key, set]) => !set.size || set.has(article.dataset[key]));
      article.hidden = !fits || !words.every((w) => article.dataset.text.includes(w));
    }
    const n = visible().length;
    count.textContent = n === all.length ? `${n} shown` : `${n} of ${all.length} shown`;
    none.hidden = n > 0;
    current = -1;
  };

  for (const button of document.querySelectorAll("button[data-filter]")) {
    button.addEventListener("click", () => {
      const set = chosen[button.dataset.filter];
      if (!set.delete(button.dataset.value)) set.add(button.dataset.value);
      button.setAttribute("aria-pressed", String(set.has(button.dataset.value)));
      apply();
    });
  }

  const clear = () => {
    for (const set of Object.values(chosen)) set.clear();
    for (const button of document.querySelectorAll("button[data-filter]")) button.setAttribute("aria-pressed", "false");
    search.value = "";
    apply();
  };

  const move = (by) => {
    const shown = visible();
    if (!shown.length) return;
    current = Math.min(Math.max(current + by, 0), shown.length - 1);
    shown[current].focus({ preventScroll: true });
    shown[current].scrollIntoView({ block: "start" });
  };

  const unfold = () => {
    const parts = [...document.querySelectorAll("article.trace details")];
    const open = parts.some((d) => !d.open);
    for (const part of parts) part.open = open;
  };

  const toggleHelp = () => { help.hidden = !help.hidden; };

  const keys = { j: () => move(1), k: () => move(-1), c: clear, o: unfold, "?": toggleHelp };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key === "Escape") search.blur();
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      search.focus();
    } else if (event.key >= "1" && event.key <= "9") {
      document.querySelectorAll("button[data-filter=verdict]")[Number(event.key) - 1]?.click();
    } else if (keys[event.key]) {
      keys[event.key]();
    }
  });
  for (const article of all) article.addEventListener("focusin", () => { current = visible().indexOf(article); });
  search.addEventListener("input", apply);
  document.getElementById("clear").addEventListener("click", clear);
  document.getElementById("help").addEventListener("click", toggleHelp);
  document.documentElement.classList.add("scripted");
  apply();
})();
