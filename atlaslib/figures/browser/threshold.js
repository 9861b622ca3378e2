// "Threshold, Dice and loss": masks, four definitions of Dice and the cross entropy, while the
// reader moves a threshold and shifts the logits. All numbers were computed when the page was made.
"use strict";
(function (atlaslib) {
  const { element, slider, choice, digits } = atlaslib;
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["2 4", "8 3 2 3", "", "7 5"]; // of the four definitions
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const three = (value) => digits(value, 3);
  const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

  atlaslib.threshold = (id, data) => atlaslib.start(id, data, begin);

  function begin(live, data, networks) {
    const { levels, definitions } = data;
    const state = { network: networks[0], part: "validation", threshold: 0, shift: 0 };
    let kept = null, looked = false;
    const pictures = {};
    for (const part in data.pictures) {
      const { image, truth, logits } = data.pictures[part];
      pictures[part] = { image: atlaslib.bytes(image), truth: atlaslib.bits(truth), logits: {} };
      for (const name in logits)
        pictures[part].logits[name] = // in steps of 1/16, rounded down
          Float32Array.from(atlaslib.bytes(logits[name]), (level) => level / 16 - 8);
    }

    // A shifted logit exceeds the threshold where the logit exceeds the difference.
    const effective = () => Math.min(Math.max(state.threshold - state.shift, levels[0]), levels.at(-1));
    const at = (level) => levels.findIndex((each) => Math.abs(each - level) < 1e-6);
    const curves = (part) => data.curves[state.network.name][part];
    const dices = (part) => definitions.map((name) => curves(part).dice[name][at(effective())] ?? NaN);
    const loss = (part) => curves(part).loss[at(state.shift)];

    // --- what is shown ------------------------------------------------------------------------------

    const view = atlaslib.screen(data.shown, 3,
      "A slice with the predicted mask, the true mask and their overlap. " +
        "Left and right arrow move the threshold.");
    const caption = element("p", { className: "caption" });
    const keys = element("p", { className: "caption" },
      "Keys on the picture: left and right move the threshold.");
    const rows = [...definitions.map((name) => `Dice, ${name}`), "cross entropy", "of the best constant"];
    const cells = rows.map(() => [element("span"), element("span"), element("span")]);
    const heads = ["", "validation", "test", "kept"];
    const table = atlaslib.table(heads, rows.map((name, n) => [name, ...cells[n]]));
    const spoken = element("p", { className: "spoken" });
    spoken.setAttribute("aria-live", "polite");

    function draw() {
      const { image, truth, logits } = pictures[state.part];
      const limit = effective();
      const mask = Uint8Array.from(logits[state.network.name], (logit) => (logit >= limit ? 1 : 0));
      const tints = [null, rgb(state.network.colour), rgb(data.lesion), rgb(data.overlap)];
      view.paint((k) => {
        const tint = tints[mask[k] + 2 * truth[k]];
        const grey = [image[k], image[k], image[k]];
        return tint ? tint.map((value) => 0.65 * value + 0.35 * image[k]) : grey;
      });
      const sum = (values) => values.reduce((a, b) => a + b, 0);
      const [p, t, both] = [sum(mask), sum(truth), sum(mask.map((value, k) => value & truth[k]))];
      const patch = (colour, words) => atlaslib.named({ colour, label: words });
      const counts =
        `In this slice |P| = ${p}, |T| = ${t}, |P ∩ T| = ${both}: ` +
        `Dice = 2 · ${both} / (${p} + ${t}) = ${digits((2 * both) / (p + t))}`;
      caption.replaceChildren(
        patch(state.network.colour, `P, ${state.network.label}`), patch(data.lesion, "T, truth"),
        patch(data.overlap, "both"), element("output", {}, counts));
    }

    function fill() {
      const column = (part) =>
        [...dices(part).map(three), digits(loss(part), 5), digits(curves(part).zero, 5)];
      const columns = [
        column("validation"),
        looked ? column("test") : rows.map(() => "?"),
        kept ? kept.shown : rows.map(() => ""),
      ];
      columns.forEach((values, c) => values.forEach((value, r) => (cells[r][c].textContent = value)));
      spoken.textContent =
        `Threshold ${digits(sigmoid(state.threshold))}: Dice per scan ` +
        `${digits(dices("validation")[2])}, cross entropy ${digits(loss("validation"), 4)}.`;
    }

    // The four curves over the thresholds, and where the reader is.
    const chart = document.createElementNS(SVG, "svg");
    chart.setAttribute("viewBox", "0 -18 314 212");
    chart.setAttribute("role", "img");
    function plot() {
      const x = (level) => 28 + 280 * sigmoid(level), y = (value) => 126 - 116 * value;
      const add = (kind, values, text = "") => {
        const made = document.createElementNS(SVG, kind);
        for (const name in values) made.setAttribute(name, values[name]);
        made.textContent = text;
        chart.append(made);
      };
      chart.replaceChildren();
      const ink = { fill: "none", stroke: "currentColor" }, letters = { fill: "currentColor", "font-size": 12 };
      add("path", { ...ink, d: "M28 6 V126 H308" });
      for (const value of [0, 0.5, 1]) {
        add("text", { ...letters, x: 24, y: y(value) + 4, "text-anchor": "end" }, value);
        add("text", { ...letters, x: 28 + 280 * value, y: 139, "text-anchor": "middle" }, value);
      }
      add("text", { ...letters, x: 168, y: 153, "text-anchor": "middle" }, "threshold on the probability");
      const { part } = state;
      add("text", { ...letters, x: 4, y: -6, "font-weight": "bold" }, `Dice, ${part} scans`);
      chart.setAttribute("aria-label",
        `Dice of the ${part} scans against the threshold by four definitions; the table has the values.`);
      definitions.forEach((name, n) => {
        const values = curves(part).dice[name];
        const points = levels.map((level, j) => [x(level + state.shift), y(values[j] ?? 0)]);
        const line = { ...ink, "stroke-dasharray": DASHES[n], "stroke-width": n === 2 ? 2.2 : 1.2 };
        add("polyline", { ...line, points: points.join(" ") });
        const [left, top] = [28 + 140 * (n % 2), 170 + 15 * (n >> 1)];
        add("path", { ...line, d: `M${left} ${top} h26` });
        add("text", { ...letters, x: left + 32, y: top + 4 }, name);
      });
      add("path", { ...ink, stroke: state.network.colour, "stroke-width": 2, d: `M${x(state.threshold)} 6 V126` });
    }

    function changed() {
      draw();
      fill();
      plot();
    }

    // --- the tasks ------------------------------------------------------------------------------------

    const tasks = [
      "Choose the threshold with the best Dice per scan on the validation scans, then look at the test scans.",
      "Find two masks of equal loss (to 1 %) whose Dice per scan is more than 0.05 apart: keep one, then " +
        "move threshold or shift.",
    ].map((text) => element("li", {}, text + " ", element("em")));
    const done = (task, words) => {
      tasks[task].classList.add("done");
      tasks[task].lastChild.textContent = words;
    };

    function look() {
      looked = true;
      const values = curves("test").dice["per scan"].map((value) => value ?? 0);
      const best = values.indexOf(Math.max(...values));
      const mine = dices("test")[2], half = values[at(0)];
      done(0,
        `At your threshold of ${digits(sigmoid(state.threshold))} the test scans have a Dice of ` +
        `${digits(mine, 3)}; at one half, unshifted, ${digits(half, 3)}; at best ` +
        `${digits(values[best], 3)}, at ${digits(sigmoid(levels[best] + state.shift))}.`);
      where.input.lastChild.disabled = false;
      where.input.value = state.part = "test";
      changed();
    }

    function compare() {
      if (!kept || kept.network !== state.network) return;
      const equal = Math.abs(loss("validation") / kept.loss - 1) < 0.01;
      const apart = Math.abs(dices("validation")[2] - kept.dice);
      if (equal && apart > 0.05)
        done(1,
          `Cross entropy ${digits(kept.loss, 5)} and ${digits(loss("validation"), 5)}, Dice per ` +
          `scan ${digits(kept.dice)} and ${digits(dices("validation")[2])}.`);
    }

    // --- the controls -----------------------------------------------------------------------------------

    const moved = (name) => (value) => {
      state[name] = value;
      changed();
      compare();
    };
    const range = { min: levels[0], max: levels.at(-1), step: levels[1] - levels[0], value: 0 };
    const probability = (value) => digits(sigmoid(value), 3);
    const threshold = slider("Threshold", { ...range, show: probability }, moved("threshold"));
    const signed = (value) => (value > 0 ? "+" : "") + digits(value);
    const shift = slider("Shift of logits", { ...range, show: signed }, moved("shift"));
    const names = networks.map(({ name, label }) => [name, label]);
    const which = choice("Network", names, state.network.name, (name) => {
      state.network = networks.find((network) => network.name === name);
      changed();
    });
    const parts = [["validation", "a validation scan"], ["test", "a test scan"]];
    const where = choice("Slice of", parts, state.part, (part) => {
      state.part = part;
      changed();
    });
    where.input.lastChild.disabled = true; // until the reader has looked
    const lookButton = element("button", { type: "button", onclick: look }, "Look at the test scans");
    const keep = element("button", { type: "button" }, "Keep this mask");
    keep.onclick = () => {
      kept = { network: state.network, loss: loss("validation"), dice: dices("validation")[2] };
      kept.shown = [...dices("validation").map(three), digits(kept.loss, 5), ""];
      changed();
    };
    view.canvas.onkeydown = (event) => {
      const step = { ArrowLeft: -range.step, ArrowRight: range.step }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      threshold.set(Math.min(Math.max(state.threshold + step, levels[0]), levels.at(-1)));
    };

    const panel = element("div", { className: "controls" }, ...(networks.length > 1 ? [which.node] : []), where.node,
      threshold.node, shift.node, element("div", { className: "buttons" }, lookButton, keep));
    live.replaceChildren(
      element("div", { className: "picture" }, view.canvas, caption, keys),
      element("div", { className: "panel" }, panel, table, chart, element("ol", {}, ...tasks), spoken));
    changed();
    return view.canvas;
  }
})(window.atlaslib);
