"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("latents");
  const items = Array.from(list.querySelectorAll("details.latent"));
  const find = byId("find");
  const sort = byId("sort");
  const all = byId("all");
  const theme = byId("theme");

  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      const text = item.dataset.search;
      const fits = words.every((word) => text.includes(word));
      item.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    byId("found").textContent = words.length ? `${shown} of ${items.length}` : "";
    byId("empty").hidden = shown > 0 || items.length === 0;
  };

  const order = () => {
    const key = sort.value;
    const value = (item) => (item.dataset[key] === undefined ? NaN : Number(item.dataset[key]));
    const number = (item) => Number(item.dataset.latent);
    const sorted = items.slice().sort((a, b) => {
      if (key === "latent") return number(a) - number(b);
      const x = value(a);
      const y = value(b);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || number(a) - number(b);
      return y - x || number(a) - number(b);
    });
    list.append(...sorted);
  };

  const openFromAddress = () => {
    const target = location.hash.startsWith("#latent-") ? byId(location.hash.slice(1)) : null;
    if (target) {
      target.open = true;
      target.scrollIntoView();
    }
  };

  find.addEventListener("input", filter);
  sort.addEventListener("change", order);
  find.form.addEventListener("submit", (event) => event.preventDefault());

  all.hidden = items.length === 0;
  all.addEventListener("click", () => {
    const open = all.textContent === "Open all";
    for (const item of items) if (!item.hidden) item.open = open;
    all.textContent = open ? "Close all" : "Open all";
  });

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
  };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
  nameTheme();

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !typing) {
      event.preventDefault();
      find.focus();
    } else if (event.key === "Escape" && event.target === find) {
      find.value = "";
      filter();
    } else if ((event.key === "j" || event.key === "k") && !typing) {
      const shown = Array.from(list.querySelectorAll("details.latent:not([hidden]) > summary"));
      const here = shown.indexOf(document.activeElement);
      const next = shown[here + (event.key === "j" ? 1 : -1)] || (here < 0 ? shown[0] : null);
      if (next) next.focus();
    }
  });

  addEventListener("hashchange", openFromAddress);
  openFromAddress();
})();
