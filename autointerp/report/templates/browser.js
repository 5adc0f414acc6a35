"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const page = document.body.dataset.page;
  const served = document.body.dataset.served === "1";
  const memory = {
    // Pages on disk may have no memory to share: then there is none.
    get: (key) => { try { return sessionStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* none */ } },
  };

  // --- colours -------------------------------------------------------------------------------
  const theme = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  if (memory.get("theme")) document.documentElement.dataset.theme = memory.get("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    memory.set("theme", document.documentElement.dataset.theme);
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
  nameTheme();

  // --- the list of latents -------------------------------------------------------------------
  const listing = () => {
    const form = byId("ask");
    const list = byId("list");
    const size = Number(list.dataset.pageSize);
    const scorers = Array.from(form.elements.by.options).map((o) => o.value).filter(Boolean);
    const fields = ["q", "explainer", "sort", "dir", "status", "state", "by", "low", "high", "sparse", "dense"];
    const defaults = { sort: "judged", dir: "desc" };
    let number = 1;

    const asked = () => {
      const found = new URLSearchParams();
      for (const name of fields) {
        const value = form.elements[name].value.trim();
        if (value && value !== defaults[name]) found.set(name, value);
      }
      if (number > 1) found.set("page", String(number));
      return found;
    };
    const fill = (address) => {
      const found = new URLSearchParams(address);
      for (const name of fields) {
        const element = form.elements[name];
        element.value = found.get(name) ?? defaults[name] ?? "";
        if (element.value === "" && defaults[name]) element.value = defaults[name];
      }
      number = Math.max(1, Math.floor(Number(found.get("page"))) || 1);
      if (fields.slice(4).some((name) => form.elements[name].value)) form.querySelector(".filters").open = true;
    };
    const remember = () => {
      memory.set("list", location.search);
      const links = list.querySelectorAll("#rows a");
      memory.set("order", JSON.stringify(Array.from(links, (a) => a.getAttribute("href").match(/\d+/)[0])));
    };
    const setAddress = () => {
      const query = asked().toString();
      try { history.replaceState(null, "", query ? `?${query}` : location.pathname); } catch { /* from disk */ }
      remember();
    };

    // Served: the server answers with the same page, whose list is put in place of this one.
    let latest = 0;
    const fetchList = async () => {
      const mine = ++latest;
      const answer = await fetch(`latents.html?${asked()}`);
      const text = await answer.text();
      if (mine !== latest) return;
      const found = new DOMParser().parseFromString(text, "text/html").getElementById("list");
      if (found) {
        list.replaceChildren(...found.childNodes);
        setAddress();
      }
    };

    // On disk: all entries are loaded, and chosen from here. Fields as `site.py` writes them.
    const LATENT = 0, STATUS = 1, DENSITY = 2, MAX = 3, TOKENS = 4, EXPLAINER = 5, FIRST = 6, STATE = 7, LABEL = 8;
    const EXTRA = 9, LINKED = 10, SCORES = 11;
    const entries = [];
    const shards = Number(list.dataset.shards);
    let loaded = 0;
    const textOf = (e) => e[EXTRA] || `${e[LABEL] ?? ""} ${e[TOKENS].replaceAll("␣", "")}`.toLowerCase();
    const rank = (e) => e[SCORES].filter((s) => s !== null).length;
    window.autointerpEntries = (shard, some) => {
      for (const entry of some) entries.push({ e: entry, text: textOf(entry), rank: rank(entry) });
      loaded += 1;
    };
    const bound = (name, least) => (form.elements[name].value === "" ? least : Number(form.elements[name].value));
    const chosen = () => {
      const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
      const explainer = form.elements.explainer.value;
      const status = form.elements.status.value;
      const state = form.elements.state.value;
      const by = scorers.indexOf(form.elements.by.value);
      const [low, high] = [bound("low", -Infinity), bound("high", Infinity)];
      const [sparse, dense] = [bound("sparse", -Infinity), bound("dense", Infinity)];
      const scored = by >= 0 && (low > -Infinity || high < Infinity);
      const some = entries.filter(({ e, text }) =>
        (explainer === "" ? e[FIRST] : explainer === "*" || e[EXPLAINER] === explainer) &&
        (!status || e[STATUS] === status) && (!state || e[STATE] === state) &&
        e[DENSITY] >= sparse && e[DENSITY] <= dense &&
        (!scored || (e[SCORES][by] !== null && e[SCORES][by] >= low && e[SCORES][by] <= high)) &&
        words.every((word) => text.includes(word) || (/^\d+$/.test(word) && e[LATENT] === Number(word))));
      const sort = form.elements.sort.value;
      const sign = form.elements.dir.value === "asc" ? 1 : -1;
      const column = scorers.indexOf(sort);
      const value = {
        latent: ({ e }) => e[LATENT],
        density: ({ e }) => e[DENSITY],
        max_activation: ({ e }) => e[MAX],
      }[sort] ?? (({ e }) => e[SCORES][column] ?? null);
      const judged = (a, b) =>
        sign * (a.rank - b.rank || (a.e[STATE] === "ok") - (b.e[STATE] === "ok") || b.e[LATENT] - a.e[LATENT]);
      const byValue = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null) || a.e[LATENT] - b.e[LATENT];
        return sign * (x - y) || a.e[LATENT] - b.e[LATENT];
      };
      return some.sort(sort === "judged" && column < 0 ? judged : byValue);
    };
    const MINUS = "−", DASH = "–";
    const plain = (x) => x.replace("-", MINUS);
    // Entries hold the digits that are shown: nothing is rounded here.
    const score = (x) => (x === null ? DASH : plain((x || 0).toFixed(3)));
    const measure = (x) => {
      if (x === null) return DASH;
      const text = Number(x.toPrecision(3));
      return plain(text !== 0 && Math.abs(text) < 1e-4 ? text.toExponential().replace(/e-(\d)$/, "e-0$1") : String(text));
    };
    const element = (tag, kind, ...inner) => {
      const made = document.createElement(tag);
      if (kind) made.className = kind;
      made.append(...inner);
      return made;
    };
    const row = ({ e }) => {
      const label = element("bdi", "", e[LABEL] ?? (e[STATE] === "none" ? "no label" : e[STATE]));
      const name = element(e[LINKED] ? "a" : "span", "", e[STATE] === "ok" ? label : element("span", "none", label));
      if (e[LINKED]) name.href = `latents/${e[LATENT]}.html`;
      const what = element("td", "what", name);
      if (e[STATUS] !== "ok") what.append(" ", element("span", "tag", e[STATUS]));
      const more = element("small", "");
      if (e[EXPLAINER]) {
        const bad = e[STATE] !== "ok" && e[STATE] !== "none";
        more.append(element("span", "by", bad ? `${e[EXPLAINER]}: ${e[STATE]}` : e[EXPLAINER]), " ");
      }
      more.append(element("bdi", "fires", e[TOKENS]));
      what.append(more);
      const density = element("td", "num", measure(e[DENSITY]));
      density.dataset.name = "density";
      const scores = e[SCORES].map((value, i) => {
        const cell = element("td", value === null ? "num empty" : "num", score(value));
        cell.dataset.name = scorers[i];
        return cell;
      });
      return element("tr", "", element("td", "id", String(e[LATENT])), what, density, ...scores);
    };
    const turn = (words, to) => {
      const link = element("a", "", words);
      link.href = "#list";
      link.rel = to > number ? "next" : "prev";
      link.addEventListener("click", (event) => {
        event.preventDefault();
        number = to;
        show();
        list.scrollIntoView();
      });
      return link;
    };
    const show = () => {
      const some = chosen();
      const pages = Math.max(1, Math.ceil(some.length / size));
      number = Math.min(number, pages);
      const from = (number - 1) * size;
      const part = some.slice(from, from + size);
      byId("rows").replaceChildren(...part.map(row));
      const count = (x) => x.toLocaleString("en-US");
      const loading = loaded < shards ? `, loading ${loaded} of ${shards}` : "";
      byId("found").textContent = `${count(some.length)} ${some.length === 1 ? "entry" : "entries"}` +
        (some.length ? `, ${count(from + 1)} to ${count(from + part.length)}` : "") + loading;
      byId("empty").hidden = some.length > 0;
      const pager = [];
      if (number > 1) pager.push(turn("Earlier", number - 1));
      if (pages > 1) pager.push(element("span", "", `page ${count(number)} of ${count(pages)}`));
      if (number < pages) pager.push(turn("Later", number + 1));
      byId("pager").replaceChildren(...pager);
      const sort = form.elements.sort.value;
      for (const link of list.querySelectorAll("th a")) {
        const mine = link.dataset.sort === sort;
        if (mine) link.parentElement.setAttribute("aria-sort", form.elements.dir.value === "asc" ? "ascending" : "descending");
        else link.parentElement.removeAttribute("aria-sort");
      }
      setAddress();
    };
    const load = (shard) => {
      if (shard >= shards) return show();
      const script = document.createElement("script");
      script.src = `data/${String(shard).padStart(4, "0")}.js`;
      script.addEventListener("load", () => {
        if (shard % 4 === 0 && shard + 1 < shards) show();
        load(shard + 1);
      });
      script.addEventListener("error", () => { byId("found").textContent = `${script.src} cannot be read`; });
      document.head.append(script);
    };

    const refresh = served ? fetchList : show;
    let timer = 0;
    const soon = (delay) => {
      clearTimeout(timer);
      timer = setTimeout(() => { number = 1; refresh(); }, delay);
    };
    form.addEventListener("input", (event) => soon(event.target.matches("input") ? 180 : 0));
    form.addEventListener("submit", (event) => { event.preventDefault(); soon(0); });
    byId("go").hidden = true;
    list.addEventListener("click", (event) => {
      const link = event.target.closest("th a");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      const { sort, dir } = form.elements;
      const again = sort.value === link.dataset.sort;
      dir.value = again ? (dir.value === "desc" ? "asc" : "desc") : link.dataset.sort === "latent" ? "asc" : "desc";
      sort.value = link.dataset.sort;
      soon(0);
    });
    if (served) {
      remember();
    } else {
      fill(location.search);
      load(0);
    }
  };

  // What scrolls sideways can be scrolled with keys too, and fades where more of it lies to the right.
  const fade = (box) => {
    box.classList.toggle("cut", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  };
  const scrollers = () => {
    for (const box of document.querySelectorAll(".scroll, figure.wide")) {
      fade(box);
      if (box.scrollWidth > box.clientWidth) {
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", box.closest("section")?.querySelector("h2")?.textContent ?? "table");
      } else {
        box.removeAttribute("tabindex");
      }
    }
  };
  scrollers();
  document.addEventListener("scroll", ({ target }) => {
    if (target.matches?.(".scroll, figure.wide")) fade(target);
  }, { capture: true, passive: true });
  addEventListener("resize", scrollers);

  // --- other pages ---------------------------------------------------------------------------
  if (page === "list") listing();
  for (const form of document.querySelectorAll('form[role="search"]:not(#ask)')) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      location.href = `latents.html?${new URLSearchParams({ q: form.elements.q.value })}`;
    });
  }
  const go = (which) => {
    const link = document.querySelector(`.around a[rel="${which}"]`);
    if (link) link.click();
  };
  if (page === "latent") {
    const back = memory.get("list");
    if (back !== null && back.startsWith("?")) {
      for (const link of [document.querySelector(".back"), byId("to-list")]) link.href += back;
    }
    // Before and after as the list had them, where it is known.
    const here = location.pathname.match(/(\d+)\.html$/)?.[1];
    let order = [];
    try { order = JSON.parse(memory.get("order") ?? "[]"); } catch { /* none */ }
    const place = order.indexOf(here);
    if (place >= 0) {
      const around = document.querySelector(".around");
      for (const link of around.querySelectorAll("[rel]")) link.remove();
      for (const [rel, id, words] of [["prev", order[place - 1], "← "], ["next", order[place + 1], " →"]]) {
        if (id === undefined || !/^\d+$/.test(id)) continue;
        const link = document.createElement("a");
        link.rel = rel;
        link.href = `${id}.html`;
        link.textContent = rel === "prev" ? words + id : id + words;
        around.append(link);
      }
    }
    const only = document.querySelector(".only");
    if (only) only.hidden = false;
    // A link into a closed fold opens it.
    const reveal = () => {
      const target = location.hash.length > 1 ? byId(location.hash.slice(1)) : null;
      if (!target || !target.closest("details")) return;
      for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
      target.scrollIntoView();
      target.focus({ preventScroll: true });
    };
    addEventListener("hashchange", reveal);
    reveal();
    // A value on touch, where nothing can be pointed at.
    const tip = document.createElement("span");
    tip.id = "tip";
    tip.hidden = true;
    document.body.append(tip);
    document.addEventListener("click", (event) => {
      const mark = event.target.closest("[title]");
      tip.hidden = !mark;
      if (!mark) return;
      const box = mark.getBoundingClientRect();
      tip.textContent = mark.title;
      tip.style.left = `${Math.min(box.left, innerWidth - 160) + scrollX}px`;
      tip.style.top = `${box.top + scrollY - 26}px`;
    });
  }

  // --- keys ----------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const find = byId("find");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      if (find) find.focus();
      else location.href = byId("to-list").href.replace(/#.*/, "") + "#find";
    } else if (event.key === "Escape" && event.target === find && find.value) {
      find.value = "";
      find.dispatchEvent(new Event("input", { bubbles: true }));
    } else if (event.target.matches(".scroll, figure.wide")) {
      // arrows scroll it
    } else if (page === "latent" && !typing && event.key === "ArrowLeft") {
      go("prev");
    } else if (page === "latent" && !typing && event.key === "ArrowRight") {
      go("next");
    } else if (page === "list") {
      const links = Array.from(document.querySelectorAll("#rows a"));
      const here = links.indexOf(document.activeElement);
      const arrows = (here >= 0 || event.target === find) && event.key.startsWith("Arrow");
      const down = (event.key === "j" && !typing) || (arrows && event.key === "ArrowDown");
      const up = (event.key === "k" && !typing) || (arrows && event.key === "ArrowUp");
      if (!down && !up) return;
      event.preventDefault();
      const next = links[here + (down ? 1 : -1)] ?? (down ? null : find);
      if (next) next.focus();
    }
  });
  if (location.hash === "#find" && byId("find")) byId("find").focus();
})();
