"use strict";
(() => {
  const root = document.querySelector(".feedback");
  const find = (selector) => document.querySelector(selector);
  const token = find("meta[name=token]").content;
  const first = Number(root.dataset.first);
  const grid = find(".samples");
  const svgSpace = "http://www.w3.org/2000/svg";
  const columns = { ArrowLeft: -1, ArrowRight: 1 };
  const edges = { Home: 0, End: -1 };

  let state = null; // as the server last told
  let waiting = 0; // requests that are not answered
  let turning = false;
  let queue = Promise.resolve();

  class Refused extends Error {}

  async function ask(path, body) {
    const options = body === undefined ? {} : {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Token": token },
      body: JSON.stringify(body),
    };
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      const lost = body === undefined ? "" : ", and what you did last was not kept";
      throw new Refused(`The server does not answer${lost}. Start 'fastunlearn feedback' again and open the address that it prints.`);
    }
    if (answer.status === 403) throw new Refused("The server was started anew: open the address that it printed last.");
    const value = answer.headers.get("Content-Type")?.startsWith("application/json") ? await answer.json() : null;
    if (answer.ok) return value;
    state = value?.state ?? state;
    throw new Refused(answer.status === 409 ? "This was done on another page, in another window. Here is the current one." : value?.error ?? await answer.text());
  }

  // One request after the other, so that the server does everything in the order in which the person did it.
  function send(path, body) {
    waiting += 1;
    queue = queue.then(() => ask(path, body)).then((now) => { state = now; complain(null); }, complain).then(() => {
      waiting -= 1;
      if (!waiting) draw();
    });
    return queue;
  }

  function complain(error) {
    const alert = find("[data-alert]");
    alert.hidden = !error;
    alert.querySelector("p").textContent = error?.message ?? "";
  }

  // Drawing

  function draw() {
    if (!state) return;
    const shown = tiles().map((tile) => Number(tile.dataset.image));
    if (shown.join() !== state.images.join()) fill();
    tiles().forEach((tile) => tile.setAttribute("aria-pressed", state.marked.includes(Number(tile.dataset.image))));
    find("[data-page]").textContent = state.page + 1;
    find("[data-marked]").textContent = state.total.marked;
    find("[data-seen]").textContent = state.total.seen;
    find("[data-undo]").disabled = !state.undo;
    find(`#order-${state.order}`).checked = true;
    drawChart();
  }

  const tiles = () => [...grid.children];

  function fill() {
    grid.replaceChildren(...state.images.map((image, i) => {
      const tile = document.createElement("button");
      tile.type = "button";
      tile.className = "sample";
      tile.dataset.image = image;
      tile.tabIndex = i ? -1 : 0;
      tile.setAttribute("aria-label", `Image ${i + 1} of ${state.images.length}`);
      const picture = new Image();
      picture.alt = "";
      picture.className = "loading";
      picture.addEventListener("load", () => picture.classList.remove("loading"));
      picture.addEventListener("error", () => {
        const failed = document.createElement("span");
        failed.className = "failed";
        failed.textContent = "could not be made; see the terminal";
        tile.append(failed);
      });
      picture.src = `/image/${root.dataset.key}/${image}.png`;
      const cross = shape("svg", { class: "cross", viewBox: "0 0 24 24", "aria-hidden": "true" });
      cross.append(shape("path", { d: "M8 8l8 8M16 8l-8 8", fill: "none" }));
      tile.append(picture, cross);
      return tile;
    }));
    focusTile(tiles()[0], true);
    scrollTo({ top: 0 });
  }

  function shape(name, attributes) {
    const element = document.createElementNS(svgSpace, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    return element;
  }

  async function drawChart() {
    let chart;
    try {
      chart = await ask("/chart");
    } catch (error) {
      complain(error);
      return;
    }
    find("[data-waiting]").hidden = Boolean(chart);
    find("[data-chart]").hidden = !chart;
    if (chart) showChart(chart);
    else {
      const missing = first - state.total.marked;
      find("[data-why]").textContent = missing > 0
        ? `Mark ${missing} more: from ${first} marked images on, this shows how well they can be told from the others.`
        : "Go on to the next page: it takes images that may stay, too.";
      find("[data-progress]").setAttribute("width", `${Math.min(100, (100 * state.total.marked) / first)}%`);
    }
  }

  function showChart(chart) {
    const plot = find(".histogram");
    const svg = plot.querySelector("svg");
    const most = (key) => Math.max(1, ...chart.bins.map((bin) => bin[key]));
    const [up, down] = [48 / most("marked"), 48 / most("unmarked")];
    const bars = chart.bins.map((bin) => {
      const x = { x: `${bin.left + 0.25}%`, width: `${bin.right - bin.left - 0.5}%` };
      const group = shape("g", {});
      group.dataset.caption = `${number(bin.low)} to ${number(bin.high)}: ${bin.marked} marked, ${bin.unmarked} not`;
      group.append(shape("rect", { ...x, class: "hit", y: "0", height: "100%" }));
      if (bin.marked) group.append(shape("rect", { ...x, class: "gone", y: `${50 - up * bin.marked}%`, height: `${up * bin.marked}%` }));
      if (bin.unmarked) group.append(shape("rect", { ...x, class: "before", y: "50%", height: `${down * bin.unmarked}%` }));
      return group;
    });
    const at = `${chart.threshold.at}%`;
    svg.replaceChildren(
      ...bars,
      shape("line", { class: "zero", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }),
      shape("line", { class: "limit", x1: at, x2: at, y1: "0%", y2: "100%" }),
    );
    const total = (key) => chart.bins.reduce((sum, bin) => sum + bin[key], 0);
    find("[data-count-marked]").textContent = total("marked");
    find("[data-count-unmarked]").textContent = total("unmarked");
    svg.setAttribute("aria-label", `Histogram: ${total("marked")} marked images, ${total("unmarked")} others; threshold ${number(chart.threshold.value)}`);
    const label = find("[data-threshold]");
    label.textContent = `threshold ${number(chart.threshold.value)}`;
    label.style.left = `${Math.max(18, Math.min(82, chart.threshold.at))}%`;
    plot.querySelectorAll(".tick").forEach((tick) => tick.remove());
    plot.append(...chart.ticks.map(({ at: left, label: text }) => {
      const tick = document.createElement("span");
      tick.className = "tick below";
      tick.textContent = text;
      tick.style.left = `${left}%`;
      return tick;
    }));
    const { value, low, high } = chart.auc;
    const hundred = (share) => Math.round(100 * share);
    find("[data-auc]").textContent = `Of 100 pairs of a marked and another image, the marked one lies further right in ${hundred(value)} (${hundred(low)} to ${hundred(high)}).${chart.chosen ? " Uncertain ones were chosen: of all images it is more." : ""}`;
    find("[data-weak]").hidden = !chart.weak;
    find("[data-weak]").textContent = chart.weak ? sentence(chart.weak) : "";
  }

  const number = (value) => value.toFixed(2).replace("-", "−");
  const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

  // What a person does

  function mark(tile) {
    if (turning) return;
    const marked = tile.getAttribute("aria-pressed") !== "true";
    tile.setAttribute("aria-pressed", marked); // at once; the server's answer has the last word
    send("/mark", { page: state.page, image: Number(tile.dataset.image), marked });
  }

  function turn() {
    if (turning || !state) return;
    turning = true;
    send("/turn", { page: state.page }).then(() => { turning = false; });
  }

  function undo() {
    if (turning || !state || find("[data-undo]").disabled && !waiting) return;
    turning = true; // it may lead to another page
    send("/undo", { page: state.page }).then(() => { turning = false; });
  }

  function focusTile(tile, quiet = false) {
    tiles().forEach((other) => { other.tabIndex = other === tile ? 0 : -1; });
    tile.focus({ preventScroll: quiet });
  }

  function move(key) {
    const all = tiles();
    const from = Math.max(0, all.indexOf(all.find((tile) => tile.tabIndex === 0)));
    const wide = Math.max(1, all.filter((tile) => tile.offsetTop === all[0].offsetTop).length);
    const to = key in edges ? edges[key] : from + (columns[key] ?? (key === "ArrowUp" ? -wide : wide));
    const target = key in edges ? all.at(to) : all[to];
    if (target) focusTile(grid.contains(document.activeElement) ? target : all[from]);
  }

  grid.addEventListener("click", (event) => {
    const tile = event.target.closest(".sample");
    if (!tile) return;
    focusTile(tile, true);
    mark(tile);
  });
  find("[data-turn]").addEventListener("click", turn);
  find("[data-undo]").addEventListener("click", undo);
  find("[data-close]").addEventListener("click", () => complain(null));
  document.querySelectorAll("[name=order]").forEach((choice) => {
    choice.addEventListener("change", () => send("/order", { order: choice.value }));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.target.closest("input, pre") && !["n", "u"].includes(key)) return; // these know what to do with the others
    const held = event.repeat && ["n", "u", " ", "Enter"].includes(key); // a key held down does a thing once
    if (key.startsWith("Arrow") || key in edges) move(key);
    else if (key === "n" && !held) turn();
    else if (key === "u" && !held) undo();
    else if (!held) return;
    event.preventDefault();
  });

  // Another window, or a run that was started anew, may have gone on meanwhile.
  document.addEventListener("visibilitychange", () => { if (!document.hidden) send("/state"); });
  send("/state");
})();
