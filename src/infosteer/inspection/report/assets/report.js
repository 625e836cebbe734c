"use strict";
// The page's own behaviour. Texts reach the page through textContent only, numbers through custom properties.

(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const data = (id) => {
    const element = byId(id);
    return element ? JSON.parse(element.textContent) : null;
  };
  const chip = (model) => {
    const element = make("span", "chip");
    const swatch = make("span", `swatch ${model.hue}`);
    swatch.setAttribute("aria-hidden", "true");
    element.append(swatch, make("bdi", "", model.label));
    return element;
  };

  function chooser(controls, models, change) { // checkboxes, where there are more models than fit side by side
    if (models.every((model) => model.shown)) return;
    const set = make("fieldset");
    set.append(make("legend", "", "Models"));
    for (const model of models) {
      const label = make("label");
      const box = make("input");
      box.type = "checkbox";
      box.checked = model.shown;
      box.addEventListener("change", () => { model.shown = box.checked; change(); });
      label.append(box, chip(model));
      set.append(label);
    }
    controls.append(set);
  }

  function theme() {
    const button = byId("theme");
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    let chosen = null;
    try { chosen = localStorage.getItem("infosteer-theme"); } catch { /* pages opened from a file may not store */ }
    const show = () => {
      const dark = chosen ? chosen === "dark" : system.matches;
      if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
      button.textContent = dark ? "Light" : "Dark";
      button.setAttribute("aria-pressed", String(dark));
    };
    button.addEventListener("click", () => {
      const dark = chosen ? chosen === "dark" : system.matches;
      chosen = dark ? "light" : "dark";
      try { localStorage.setItem("infosteer-theme", chosen); } catch { /* the choice then lasts for this visit */ }
      show();
    });
    system.addEventListener("change", show);
    button.hidden = false;
    show();
  }

  function tokens() {
    const found = data("token-data");
    if (!found) return;
    const view = byId("token-readings");
    const detail = byId("token-detail");
    const select = byId("token-text");
    let elements = []; // of every reading, its tokens
    let picked = null;

    const mode = () => document.querySelector("input[name=token-colour]:checked").value;
    const same = (a, b) => a.tokens.length === b.tokens.length && a.tokens.every((token, i) => token === b.tokens[i]);

    function values(readings) {
      if (mode() === "flux") {
        const all = readings.flatMap((reading) => reading.normalised);
        const low = Math.min(...all), span = Math.max(...all) - low || 1;
        return {
          low, high: low + span, both: false,
          of: readings.map((reading) => reading.normalised.map((value) => (value - low) / span)),
        };
      }
      const first = readings[0];
      const changes = readings.map((reading) => same(first, reading)
        ? reading.normalised.map((value, i) => value - first.normalised[i]) : reading.normalised.map(() => 0));
      const reach = Math.max(...changes.flat().map(Math.abs)) || 1;
      return { low: -reach, high: reach, both: true, of: changes.map((row) => row.map((value) => value / reach)) };
    }

    function key(scale) {
      const line = make("p", "key");
      const digits = (value) => {
        const text = (100 * value).toFixed(1);
        return scale.both ? (value > 0 ? `+${text}` : text.replace("-", "\u2212")) : `${text} %`;
      };
      line.append(make("span", "", digits(scale.low)), make("span", scale.both ? "ramp both" : "ramp"));
      const what = scale.both ? "points of the largest possible entropy" : "of the largest possible entropy";
      line.append(make("span", "", `${digits(scale.high)} ${what}`));
      return line;
    }

    function token(reading, scale, r, i) {
      const element = make("span", "token");
      element.setAttribute("role", "option");
      element.setAttribute("aria-selected", "false");
      element.tabIndex = i === 0 ? 0 : -1;
      const text = reading.tokens[i];
      element.append(make("bdi", "", text.replace(/\n/g, "\u21b5")));
      element.setAttribute("aria-label", `${text.trim() || "space"}: ${reading.flux[i].toFixed(2)} nats`);
      const value = scale.of[r][i];
      element.style.setProperty("--v", Math.abs(value).toFixed(3));
      if (value < 0) element.style.setProperty("--tint", "var(--cool)");
      element.dataset.place = i;
      return element;
    }

    function draw() {
      const whole = found.texts[Number(select.value)];
      const scale = values(whole.readings);
      const text = { name: whole.name, readings: whole.readings.filter((reading) => found.models[reading.model].shown) };
      scale.of = scale.of.filter((_, i) => found.models[whole.readings[i].model].shown);
      picked = null;
      detail.replaceChildren();
      elements = [];
      const parts = text.readings.map((reading, r) => {
        const model = found.models[reading.model];
        const part = make("div", "reading");
        const title = make("h3");
        title.append(chip(model));
        const box = make("div", "tokens");
        box.setAttribute("role", "listbox");
        box.setAttribute("aria-orientation", "horizontal");
        box.setAttribute("aria-label", `${text.name} read by ${model.label}`);
        elements.push(reading.tokens.map((_, i) => token(reading, scale, r, i)));
        elements[r].forEach((element, i) => {
          box.append(element);
          if (reading.tokens[i].includes("\n")) box.append(make("br"));
        });
        const place = (event) => event.target.closest(".token");
        box.addEventListener("mouseover", (event) => place(event) && pick(text, r, Number(place(event).dataset.place)));
        box.addEventListener("focusin", (event) => place(event) && pick(text, r, Number(place(event).dataset.place)));
        box.addEventListener("keydown", (event) => move(event, r));
        part.append(title, box);
        return part;
      });
      view.replaceChildren(...parts, key(scale));
    }

    function move(event, r) {
      const row = elements[r];
      const now = row.indexOf(event.target.closest(".token"));
      const rect = (element) => element.getBoundingClientRect();
      const line = (step) => { // the token above or below
        const here = rect(row[now]);
        let best = now, distance = Infinity;
        for (let i = now + step; i >= 0 && i < row.length; i += step) {
          const there = rect(row[i]);
          const down = step * (there.top - here.top);
          if (down > 1.5 * here.height && best !== now) break;
          if (down > 2 && Math.abs(there.left - here.left) < distance) {
            distance = Math.abs(there.left - here.left);
            best = i;
          }
        }
        return best;
      };
      const to = {
        ArrowRight: () => now + 1, ArrowLeft: () => now - 1, Home: () => 0, End: () => row.length - 1,
        ArrowDown: () => line(1), ArrowUp: () => line(-1),
      }[event.key];
      if (!to || now < 0) return;
      event.preventDefault();
      row[Math.max(0, Math.min(row.length - 1, to()))].focus();
    }

    function pick(text, r, i) {
      if (picked && picked[0] === r && picked[1] === i) return;
      picked = [r, i];
      elements.forEach((row, other) => row.forEach((element, j) => {
        const mine = other === r && j === i;
        element.setAttribute("aria-selected", String(mine));
        element.classList.toggle("same", j === i && !mine && same(text.readings[other], text.readings[r]));
        if (other === r) element.tabIndex = mine ? 0 : -1;
      }));
      detail.replaceChildren(...describe(text, text.readings[r], i));
    }

    function describe(text, chosen, i) {
      const head = make("p", "picked");
      head.append(make("bdi", "", chosen.long[i] ?? chosen.tokens[i]));
      head.append(make("span", "numbers", `token ${i + 1} of ${chosen.tokens.length}`));
      const models = make("div", "models");
      for (const reading of text.readings) {
        if (reading !== chosen && !same(reading, chosen)) continue;
        const part = make("div");
        const surprisal = reading.surprisal?.[i];
        const words = `${reading.flux[i].toFixed(3)} nats, ${(100 * reading.normalised[i]).toFixed(1)} %`
          + (surprisal === undefined || surprisal === null ? "" : `, surprisal ${surprisal.toFixed(2)}`);
        part.append(chip(found.models[reading.model]), " ", make("span", "numbers", words));
        part.append(...layers(reading, i, found.models[reading.model].hue));
        models.append(part);
      }
      return [head, models];
    }

    function layers(reading, i, hue) {
      const box = make("div", `layers ${hue}`);
      const row = reading.byLayer[i];
      box.setAttribute("role", "img");
      box.setAttribute("aria-label",
        "Entropy by layer: " + row.map((value, j) => `layer ${reading.layers[j]} ${value.toFixed(2)} nats`).join(", "));
      row.forEach((value, j) => {
        const bar = make("span");
        bar.style.setProperty("--h", Math.max(0, Math.min(1, value / Math.log(reading.widths[j]))).toFixed(3));
        bar.title = `layer ${reading.layers[j]}: ${value.toFixed(3)} nats of ${Math.log(reading.widths[j]).toFixed(2)}`;
        box.append(bar);
      });
      const ends = make("div", "ends");
      ends.append(make("span", "", `layer ${reading.layers[0]}`), make("span", "", `${reading.layers.at(-1)}`));
      return [box, ends];
    }

    chooser(byId("token-controls"), found.models, draw);
    select.addEventListener("change", draw);
    document.querySelectorAll("input[name=token-colour]").forEach((input) => input.addEventListener("change", draw));
    draw();
  }

  function memories() {
    const found = data("memory-data");
    if (!found) return;
    const FIRST = 8, PAGE = 30;
    const input = byId("memory-search"), layer = byId("memory-layer"), list = byId("memory-list"), count = byId("memory-count");
    const all = new Map(); // layer and index -> what each model's memory says
    for (const part of found.layers) {
      for (const [index, specificity, words, concept] of part.memories) {
        const key = `${part.layer}:${index}`;
        if (!all.has(key)) all.set(key, { layer: part.layer, index, says: [], best: 0 });
        const entry = all.get(key);
        entry.says.push({ model: part.model, specificity, words, concept });
        entry.best = Math.max(entry.best, specificity);
      }
    }
    for (const entry of all.values()) entry.says.sort((a, b) => a.model - b.model);
    const entries = [...all.values()].sort((a, b) => b.best - a.best);
    let hits = [], shown = 0, query = "";

    const matches = (word) => query !== "" && word.toLowerCase().includes(query);
    function rank(entry) { // exact words before beginnings before the rest, then by probability
      let best = -1;
      for (const said of entry.says) {
        if (!found.models[said.model].shown) continue;
        for (const [word, p] of said.words) {
          if (!matches(word)) continue;
          const bare = word.trim().toLowerCase();
          best = Math.max(best, p + (bare === query ? 2 : bare.startsWith(query) ? 1 : 0));
        }
        if (said.concept && matches(said.concept)) best = Math.max(best, 0);
      }
      return best;
    }

    function examples(list) { // the first memory of each word, words of letters only: punctuation writes itself often
      const seen = new Set();
      return list.filter((entry) => {
        const word = entry.says[0].words[0]?.[0].trim().toLowerCase() ?? "";
        if (!/^\p{L}{2,}$/u.test(word) || seen.has(word)) return false;
        seen.add(word);
        return true;
      });
    }

    function search() {
      query = input.value.trim().toLowerCase();
      const wanted = layer.value === "" ? null : Number(layer.value);
      const inLayer = entries.filter((entry) => wanted === null || entry.layer === wanted);
      if (query === "") {
        hits = examples(inLayer);
        count.textContent = `The most specific memory of each word, of ${inLayer.length.toLocaleString("en")} memories.`;
      } else {
        hits = inLayer.map((entry) => [rank(entry), entry]).filter(([score]) => score >= 0)
          .sort((a, b) => b[0] - a[0]).map(([, entry]) => entry);
        count.textContent = hits.length === 1 ? "1 memory writes it." : `${hits.length.toLocaleString("en")} memories write it.`;
      }
      shown = 0;
      list.replaceChildren();
      more();
    }

    function more() {
      list.querySelector("button")?.remove();
      const next = Math.min(hits.length, shown + (shown === 0 ? FIRST : PAGE));
      list.append(...hits.slice(shown, next).map(card));
      shown = next;
      if (shown < hits.length) {
        const button = make("button", "", `Show more (${(hits.length - shown).toLocaleString("en")} left)`);
        button.type = "button";
        button.addEventListener("click", () => {
          const from = list.querySelectorAll(".memory").length;
          more();
          const next = list.querySelectorAll(".memory")[from];
          next.tabIndex = -1;
          next.focus();
        });
        list.append(button);
      }
    }

    function card(entry) {
      const part = make("div", "memory");
      part.append(make("h3", "", `Layer ${entry.layer}, memory ${entry.index}`));
      for (const said of entry.says) {
        if (!found.models[said.model].shown) continue;
        const row = make("div", "row");
        const who = make("span", "who");
        who.append(chip(found.models[said.model]), ` specificity ${said.specificity.toFixed(2)}`);
        const words = make("ul");
        for (const [word, p] of said.words) {
          const item = make("li");
          const text = make("bdi");
          text.append(matches(word) ? make("mark", "", word) : document.createTextNode(word));
          item.append(text, make("small", "", p < 0.0005 ? "<0.001" : p.toFixed(p < 0.01 ? 3 : 2)));
          item.style.setProperty("--p", Math.max(0, Math.min(1, p)).toFixed(3));
          words.append(item);
        }
        if (said.concept) words.append(make("li", "concept", `concept: ${said.concept}`));
        row.append(who, words);
        part.append(row);
      }
      return part;
    }

    let waiting = 0;
    input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 80); });
    layer.addEventListener("change", search);
    chooser(byId("memory-controls"), found.models, search);
    search();
  }

  function readouts() { // what lies under the pointer in a chart, and arrow keys to walk through it
    for (const figure of document.querySelectorAll("figure[data-readout]")) readout(figure);
  }

  function readout(figure) {
    const { panels, places } = data(figure.dataset.readout);
    const box = make("div", "readout"), mark = make("div", "mark");
    box.setAttribute("role", "status");
    figure.append(mark, box);
    const number = (value) => String(Number(value.toPrecision(4))).replace("-", "\u2212");
    const near = (list, value) => list.reduce((best, item, i) =>
      Math.abs(item - value) < Math.abs(list[best] - value) ? i : best, 0);
    const steps = (panel) => panel.steps
      ?? [...new Set(panel.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    let at = null; // panel, column, row

    function hide() { at = null; box.hidden = mark.hidden = true; }

    function find(svg, place, event) {
      const rect = svg.getBoundingClientRect();
      const x = (event.clientX - rect.left) / rect.width, y = 1 - (event.clientY - rect.top) / rect.height;
      const p = place.findIndex(([left, bottom, width, height]) =>
        x >= left && x <= left + width && y >= bottom && y <= bottom + height);
      if (p < 0) return hide();
      const [left, bottom, width, height, x0, x1] = place[p], panel = panels[p];
      const along = x0 + ((x - left) / width) * (x1 - x0);
      const column = panel.values ? Math.round(along) : near(steps(panel), along);
      const row = panel.values ? Math.floor(((y - bottom) / height) * panel.layers.length) : 0;
      show(svg, place, [p, column, row]);
    }

    function show(svg, place, [p, column, row]) {
      const panel = panels[p], [left, bottom, width, height, x0, x1] = place[p];
      const all = steps(panel);
      column = Math.max(0, Math.min(all.length - 1, column));
      row = Math.max(0, Math.min((panel.layers?.length ?? 1) - 1, row));
      at = [p, column, row];
      const lines = [make("b", "", panel.title)];
      if (panel.values) {
        lines.push(make("span", "", `layer ${panel.layers[row]}, step ${number(all[column])}: ${number(panel.values[row][column])} nats`));
      } else {
        lines.push(make("span", "", `step ${number(all[column])}`));
        for (const line of panel.lines) {
          const point = line.points.find(([x]) => x === all[column]);
          if (!point) continue;
          const item = make("span");
          item.append(chip({ label: line.name, hue: line.hue }), ` ${number(point[1])}`);
          lines.push(item);
        }
      }
      box.replaceChildren(...lines);
      box.hidden = mark.hidden = false;
      const w = svg.clientWidth || svg.getBoundingClientRect().width, h = svg.getBoundingClientRect().height;
      const cells = panel.values ? { across: width / all.length, down: height / panel.layers.length } : { across: 0, down: height };
      const x = panel.values ? left + column * cells.across : left + ((all[column] - x0) / (x1 - x0)) * width;
      const y = panel.values ? bottom + (row + 1) * cells.down : bottom + height;
      for (const [name, value] of [["--x", x * w], ["--y", (1 - y) * h], ["--w", cells.across * w], ["--h", cells.down * h]])
        mark.style.setProperty(name, `${value.toFixed(1)}px`);
      const room = figure.clientWidth - box.offsetWidth;
      const beside = x * w + cells.across * w + 12;
      box.style.setProperty("--x", `${Math.max(0, beside <= room ? beside : Math.min(room, x * w - box.offsetWidth - 12)).toFixed(1)}px`);
      box.style.setProperty("--y", `${((1 - bottom - height) * h).toFixed(1)}px`);
    }

    for (const svg of figure.querySelectorAll("svg.drawing")) {
      const place = places[svg.classList.contains("wide") ? "wide" : "narrow"];
      svg.setAttribute("tabindex", "0");
      for (const kind of ["pointermove", "pointerdown"]) svg.addEventListener(kind, (event) => find(svg, place, event));
      svg.addEventListener("pointerleave", hide);
      svg.addEventListener("blur", hide);
      svg.addEventListener("keydown", (event) => {
        const [p, column, row] = at ?? [0, -1, 0];
        const to = {
          ArrowRight: [p, column + 1, row], ArrowLeft: [p, column - 1, row],
          ArrowUp: panels[p].values ? [p, column, row + 1] : [Math.max(0, p - 1), column, row],
          ArrowDown: panels[p].values ? [p, column, row - 1] : [Math.min(panels.length - 1, p + 1), column, row],
          PageDown: [Math.min(panels.length - 1, p + 1), column, row], PageUp: [Math.max(0, p - 1), column, row],
          Home: [p, 0, row], End: [p, Infinity, row],
        }[event.key];
        if (event.key === "Escape") hide();
        if (!to) return;
        event.preventDefault();
        show(svg, place, to);
      });
    }
    hide();
  }

  theme();
  readouts();
  tokens();
  memories();
})();
