"use strict";
// Everything on the page is readable without this; it adds the theme button, enlargement, hover labels and sorting.
(() => {
  const root = document.documentElement;
  const stored = (action) => { try { return action(); } catch { return null; } }; // a file: page may have no storage
  const remembered = stored(() => localStorage.getItem("fastunlearn-theme"));
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;

  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  function toggleTheme() {
    root.dataset.theme = dark() ? "light" : "dark";
    stored(() => localStorage.setItem("fastunlearn-theme", root.dataset.theme));
  }

  // One lens for pairs of images and for points of a chart. It never takes space of the page.
  function show(lens, target) {
    const pictures = [...target.querySelectorAll("img")].map((img) => {
      const figure = document.createElement("figure");
      const large = new Image();
      const caption = document.createElement("figcaption");
      large.src = img.src;
      large.alt = img.alt;
      caption.textContent = img.alt;
      figure.append(large, caption);
      return figure;
    });
    const text = document.createElement("p");
    text.textContent = target.dataset.caption;
    lens.replaceChildren(...pictures, text);
    lens.classList.toggle("sharp", target.classList.contains("sharp"));
    lens.hidden = false;
    shown = target;
    place(lens, target.getBoundingClientRect());
  }
  let shown = null;

  function place(lens, at) {
    const { width, height } = lens.getBoundingClientRect();
    const left = at.left + at.width / 2 - width / 2;
    const above = at.top - height - 10;
    lens.style.left = `${Math.max(8, Math.min(left, root.clientWidth - width - 8))}px`;
    lens.style.top = `${above >= 8 ? above : Math.min(at.bottom + 10, innerHeight - height - 8)}px`;
  }

  function enlarge(lens) {
    const hide = () => { lens.hidden = true; shown = null; };
    const find = (event) => event.target.closest?.("[data-caption]");
    document.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "mouse") return;
      const target = find(event);
      if (target) show(lens, target);
      else if (shown && shown !== document.activeElement) hide();
    });
    document.addEventListener("focusin", (event) => (find(event) ? show(lens, find(event)) : hide()));
    document.addEventListener("focusout", hide);
    document.addEventListener("pointerup", (event) => {
      if (event.pointerType !== "mouse" && shown && find(event) !== shown) hide();
    });
    document.addEventListener("click", (event) => { if (find(event)) show(lens, find(event)); });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    addEventListener("scroll", () => {
      // The keyboard scrolls to the tile it moves to: its lens goes with it while it can be seen.
      const at = shown?.getBoundingClientRect();
      if (at && shown === document.activeElement && at.bottom > 0 && at.top < innerHeight) place(lens, at);
      else hide();
    }, { passive: true });
  }

  function sortable(table) {
    table.querySelectorAll("th button").forEach((button) => {
      button.addEventListener("click", () => {
        const header = button.closest("th");
        const column = [...header.parentNode.children].indexOf(header);
        const down = header.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.children[column].dataset.value ?? "";
        const body = table.tBodies[0];
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // what was not measured stays last
          const by = x - y || x.localeCompare(y);
          return down ? -by : by;
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  addEventListener("DOMContentLoaded", () => {
    document.querySelector("[data-theme-toggle]").addEventListener("click", toggleTheme);
    enlarge(document.querySelector(".lens"));
    document.querySelectorAll("table.sortable").forEach(sortable);
    addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
  });
})();
