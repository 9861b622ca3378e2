// "Paint a stroke": the reader paints a lesion into a healthy slice, and the networks look for it.
"use strict";
(function (atlaslib) {
  const { ROWS, COLUMNS, element, slider, digits } = atlaslib;
  const FIRST = { size: 18, darkness: 0.9, contrast: 1, noise: 0 };

  // The same noise at every stroke: only its strength changes.
  function normal(length) {
    let seed = 1;
    const uniform = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
    return Float32Array.from({ length }, () =>
      Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
  }

  atlaslib.paint = (id, data) => atlaslib.start(id, data, begin);

  function begin(live, data, networks) {
    const slices = data.slices.map(atlaslib.bytes);
    const noise = normal(slices.length * ROWS * COLUMNS);
    const brain = atlaslib.bits(data.brain);
    const middle = (slices.length - 1) / 2;
    // the arrow keys move all marks but the first `fixed` of them
    const state = { ...FIRST, marks: [data.mark], fixed: 0, mirror: false };
    let painted, truth, version = 0, working = false;
    for (const network of networks) Object.assign(network, { seen: -1, mask: null });

    // --- the lesion -------------------------------------------------------------------------------

    // The pixels from `radius` before a place to `radius` after it.
    function around(place, radius, limit) {
      const first = Math.max(Math.floor(place - radius - 1), 0);
      const last = Math.min(Math.ceil(place + radius + 1), limit - 1);
      return Array.from({ length: Math.max(last - first + 1, 0) }, (_, k) => first + k);
    }

    // How much of each pixel is lesion, `distance` slices of 1 mm away: each mark is a ball.
    function cover(distance) {
      const out = new Float32Array(ROWS * COLUMNS);
      const radius = Math.sqrt(Math.max((state.size / 2) ** 2 - distance ** 2, 0));
      if (!radius) return out;
      for (const [x, y] of marks())
        for (const row of around(y, radius, ROWS))
          for (const column of around(x, radius, COLUMNS)) {
            const k = row * COLUMNS + column;
            const inside = radius - Math.hypot(column + 0.5 - x, row + 0.5 - y) + 0.5;
            out[k] = Math.max(out[k], brain[k] * Math.min(Math.max(inside, 0), 1));
          }
      return out;
    }

    const opposite = () => (state.mirror ? state.marks.map(([x, y]) => [COLUMNS - x, y]) : []);
    const marks = () => [...state.marks, ...opposite()];

    // Slices as a scanner of another contrast and noise would show them, with the lesion.
    function paintSlices() {
      painted = slices.map((slice, number) => {
        const lesion = cover(3 * Math.abs(number - middle));
        if (number === middle) truth = Uint8Array.from(lesion, (share) => (share >= 0.5 ? 1 : 0));
        return Uint8Array.from(slice, (level, k) => {
          let value = level + lesion[k] * state.darkness * (data.fluid - level);
          if (value > 32 && value < 224 && state.contrast !== 1)
            value = 32 + 192 * ((value - 32) / 192) ** state.contrast;
          value += state.noise * noise[number * ROWS * COLUMNS + k];
          return Math.min(Math.max(Math.round(value), 0), 255);
        });
      });
    }

    // --- what is shown ------------------------------------------------------------------------------

    const label =
      "A brain slice with a dark blob. Arrow keys move it, plus and minus change its size, " +
      "m adds its mirror image, space leaves a copy behind, delete clears the slice.";
    const view = atlaslib.screen(data.shown, 3, label);
    const caption = element("p", { className: "caption" },
      atlaslib.named({ label: "painted lesion (dashed)", colour: data.lesion }),
      element("output", {}, "Keys on the picture: arrows move, + and − size, m mirror image, " +
        "space leaves a copy behind, Delete clears."));
    const cells = networks.map(() => [element("span"), element("span"), element("span")]);
    const table = atlaslib.table(
      ["network", "marks", "Dice", "ms a slice"],
      networks.map((network, n) => [atlaslib.named(network), ...cells[n]]),
    );
    const spoken = element("p", { className: "spoken" });
    spoken.setAttribute("aria-live", "polite");

    function draw() {
      const image = painted[middle];
      view.paint((k) => [image[k], image[k], image[k]]);
      for (const { mask, colour } of networks) if (mask) view.outline(mask, colour, 3);
      view.outline(truth, data.lesion, 2.5, [7, 6]);
    }

    function changed() {
      version++;
      table.setAttribute("aria-busy", "true");
      paintSlices();
      draw();
      if (!working) follow();
    }

    // Segment with the network that is furthest behind, until all have seen the latest picture.
    async function follow() {
      working = true;
      for (;;) {
        const network = networks.reduce((a, b) => (b.seen < a.seen ? b : a));
        if (network.seen === version) break;
        await new Promise((resolve) => setTimeout(resolve));
        segment(network);
        draw();
      }
      working = false;
      const words = networks.map(({ label, dice }) => `${label}: Dice ${digits(dice)}.`);
      spoken.textContent = words.join(" ");
      judge();
      table.setAttribute("aria-busy", "false");
    }

    function segment(network) {
      network.seen = version;
      const context = network.model.view.context;
      const begun = performance.now();
      const logits = network.model.segment(painted.slice(middle - context, middle + context + 1));
      const time = performance.now() - begun;
      network.mask = Uint8Array.from(logits, (logit, k) => (logit > 0 ? brain[k] : 0));
      network.dice = atlaslib.dice(network.mask, truth);
      const area = network.mask.reduce((a, b) => a + b, 0) / 100;
      const shown = [digits(area, 1) + " cm²", digits(network.dice), Math.round(time)];
      cells[networks.indexOf(network)].forEach((cell, n) => (cell.textContent = shown[n]));
    }

    // --- the tasks ------------------------------------------------------------------------------------

    const found = { ever: {}, sides: {}, sizes: {}, lost: {}, mirror: {}, intact: {}, broken: {} };
    const tasks = {
      sides: "Carry it across the midline.",
      lost: "Shrink it until each network loses it.",
      mirror: "Add its mirror image.",
      broken: "Turn contrast and noise until a network breaks; a faint lesion breaks first.",
    };
    const lines = {};
    for (const name in tasks) lines[name] = element("li", {}, tasks[name] + " ", element("em"));

    const usual = () => state.contrast === 1 && state.noise === 0;
    const each = (word) => networks.map((network) => `${network.label}: ${word(network)}`).join("; ");

    // The smallest size at which a network found this disc, and the largest below at which it did
    // not; a disc that has been moved or made darker is another one.
    function shrink(label, overlap) {
      const disc = JSON.stringify([state.marks, state.darkness, state.mirror]);
      const { seen, missed } = (found.sizes[label + disc] ||= { seen: [], missed: [] });
      (overlap ? seen : missed).push(state.size);
      const least = Math.min(...seen), below = missed.filter((size) => size < least);
      if (seen.length && below.length) found.lost[label] = { disc, least, at: Math.max(...below) };
      else if (found.lost[label]?.disc === disc) delete found.lost[label];
    }

    // Note what the reader has reached; a task that is done says what was found.
    function judge() {
      if (!truth.some(Boolean)) return; // an empty slice
      const x = state.marks.map((mark) => mark[0]), half = COLUMNS / 2;
      const side = Math.max(...x) < half ? "left" : Math.min(...x) > half ? "right" : "";
      for (const { label, mask, dice } of networks) {
        const overlap = mask.some((marked, k) => marked & truth[k]);
        if (usual() && overlap) found.ever[label] = true;
        if (usual()) shrink(label, overlap);
        if (side && usual() && !state.mirror) {
          found.sides[side] = found.sides[side] || {};
          found.sides[side][label] = Math.max(found.sides[side][label] || 0, dice);
        }
        if (state.mirror) found.mirror[label] = dice;
        // it breaks if it had found the same lesion before
        const lesion = JSON.stringify([state.marks, state.size, state.darkness, state.mirror]);
        if (usual() && dice > 0.5) found.intact[label] = lesion;
        if (!usual() && dice < 0.3 && found.intact[label] === lesion)
          found.broken[label] = `contrast ${digits(state.contrast, 1)}, noise ${state.noise}`;
      }
      const ever = networks.filter(({ label }) => found.ever[label]);
      if (ever.length && ever.every(({ label }) => found.lost[label])) found.shrunk = true;
      const { left, right } = found.sides;
      const sides = ({ label }) =>
        `at best Dice ${digits(left[label])} on the left, ${digits(right[label])} on the right`;
      const lost = ({ label }) => {
        const { least, at } = found.lost[label] || {};
        if (at) return `found it at ${least} mm and lost it at ${at}`;
        return found.ever[label] ? "has found it and not lost it yet" : "has not found it yet";
      };
      const words = {
        sides: left && right && each(sides),
        lost: found.shrunk && each(lost),
        mirror: Object.keys(found.mirror).length &&
          each(({ label }) => `Dice ${digits(found.mirror[label])} for both`),
        broken: Object.entries(found.broken).map(([label, how]) => `${label}: ${how}`).join("; "),
      };
      for (const name in words) {
        lines[name].classList.toggle("done", Boolean(words[name]));
        lines[name].lastChild.textContent = words[name] || "";
      }
    }

    // --- the controls -----------------------------------------------------------------------------------

    const control = (name, label, options) =>
      slider(label, { ...options, value: FIRST[name] }, (value) => {
        state[name] = value;
        changed();
      });
    const controls = {
      size: control("size", "Size", { min: 4, max: 60, step: 1, show: (v) => `${v} mm` }),
      darkness: control("darkness", "Darkness",
        { min: 0, max: 1, step: 0.05, show: (v) => `${Math.round(100 * v)} %` }),
      contrast: control("contrast", "Contrast",
        { min: 0.3, max: 3, step: 0.1, show: (v) => digits(v, 1) }),
      noise: control("noise", "Noise", { min: 0, max: 100, step: 5, show: String }),
    };
    const mirror = element("input", { type: "checkbox" });
    mirror.onchange = () => {
      state.mirror = mirror.checked;
      changed();
    };
    const reset = element("button", { type: "button" }, "Start again");
    reset.onclick = () => {
      Object.assign(state, { marks: [data.mark], fixed: 0, mirror: false });
      mirror.checked = false;
      for (const name in controls) controls[name].set(FIRST[name]);
    };

    function move(x, y) {
      const [top, left, height, width] = data.shown;
      const moved = state.marks.map(([a, b], n) => (n < state.fixed ? [a, b] : [a + x, b + y]));
      const within = ([a, b]) => a > left && a < left + width && b > top && b < top + height;
      if (!moved.every(within)) return;
      state.marks = moved;
      changed();
    }

    const setMarks = (marks, fixed = 0) => {
      Object.assign(state, { marks, fixed });
      changed();
    };
    const clear = element("button", { type: "button" }, "Clear the slice");
    clear.onclick = () => setMarks([]);

    // press on the lesion and drag it; press beside it and paint
    let held = null;
    const undo = () => {
      if (!held) return;
      setMarks(held.before);
      held = null;
    };
    view.canvas.className = "painted";
    view.canvas.onpointerdown = (event) => {
      if (!event.isPrimary) return undo(); // a second finger: the picture is enlarged
      if (event.button) return;
      const [x, y] = view.place(event);
      const reach = Math.max(state.size / 2, 6);
      const drag = state.marks.some(([a, b]) => Math.hypot(a - x, b - y) < reach);
      held = { x, y, drag, before: state.marks };
      state.fixed = 0;
      view.canvas.setPointerCapture(event.pointerId);
      if (!drag) setMarks([...state.marks, [x, y]]);
    };
    view.canvas.onpointermove = (event) => {
      if (!held || !event.isPrimary) return;
      const [x, y] = view.place(event);
      if (held.drag) move(x - held.x, y - held.y);
      else if (Math.hypot(x - held.x, y - held.y) < Math.max(state.size / 6, 1)) return;
      else setMarks([...state.marks, [x, y]]);
      held = { ...held, x, y };
    };
    view.canvas.onpointerup = () => (held = null);
    view.canvas.onpointercancel = undo;
    view.canvas.onkeydown = (event) => {
      const far = event.shiftKey ? 8 : 2;
      const actions = {
        ArrowLeft: () => move(-far, 0),
        ArrowRight: () => move(far, 0),
        ArrowUp: () => move(0, -far),
        ArrowDown: () => move(0, far),
        "+": () => controls.size.set(Math.min(state.size + 1, 60)),
        "-": () => controls.size.set(Math.max(state.size - 1, 4)),
        m: () => mirror.click(),
        " ": () => setMarks([...state.marks, state.marks.at(-1) || data.mark], state.marks.length),
        Delete: () => clear.click(),
        Backspace: () => clear.click(),
      };
      if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions[event.key]();
    };

    const panel = element("div", { className: "controls" },
      ...Object.values(controls).map(({ node }) => node),
      element("label", {}, element("span", {}, "Mirror image"), mirror),
      element("div", { className: "buttons" }, clear, reset));
    const list = element("ol", {}, ...Object.values(lines));
    live.replaceChildren(
      element("div", { className: "picture" }, view.canvas, caption),
      element("div", { className: "panel" }, table, panel, list, spoken));
    changed();
    return view.canvas;
  }
})(window.atlaslib);
