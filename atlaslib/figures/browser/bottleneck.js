// "Through the bottleneck": the numbers in a network's bottleneck as bars that can be dragged, and
// the mask that the rest of the network makes of them.
"use strict";
(function (atlaslib) {
  const { COLUMNS, element, slider, choice, digits } = atlaslib;
  const REACH = 4; // of a bar, in standard deviations
  const DISC = 16; // diameter of the small disc, in mm
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const largest = (a, b) => Math.max(...Array.from(a, (value, k) => Math.abs(value - b[k])));
  const signed = (value) => (value < 0 ? "−" : "+") + digits(Math.abs(value), 1);

  atlaslib.bottleneck = (id, data) => atlaslib.start(id, data, begin);

  function begin(live, data, [network]) {
    const { before, vector, after } = data.tensors;
    const length = data.centre.length;
    const score = (values) => Array.from(values, (v, k) => (v - data.centre[k]) / data.spread[k]);
    const column = (k) => k % COLUMNS, row = (k) => Math.floor(k / COLUMNS);
    const mirrored = (mask) => mask.map((_, k) => mask[k - column(k) + COLUMNS - 1 - column(k)]);

    // The centre of a mask, as column and row.
    const centre = (mask) =>
      [column, row].map((place) => sum(mask.map((value, k) => value * place(k))) / sum(mask));

    // A disc in the middle of a mask.
    function disc(mask) {
      const [x, y] = centre(mask);
      return mask.map((_, k) => (Math.hypot(column(k) - x, row(k) - y) < DISC / 2 ? 1 : 0));
    }

    // --- the network ------------------------------------------------------------------------------

    // The map ahead of the bottleneck to the bottleneck's numbers, as scores.
    const encode = (map) => score(network.model.forward(map, before, vector).data);

    // Scores to the map that is made of them, its positions in another order if one is given.
    function expand(scores, order) {
      const values = Float64Array.from(scores, (z, k) => data.centre[k] + z * data.spread[k]);
      const map = network.model.forward(atlaslib.tensor(data.shapes.vector, values), vector, after);
      return order ? reordered(map, order) : map;
    }

    const draw = (map) => network.model.whole(network.model.forward(map, after));

    // All channels of a map with their positions in the same other order.
    function reordered(map, order) {
      const area = order.length;
      return atlaslib.tensor(map.shape, map.data.map((_, k) => map.data[k - (k % area) + order[k % area]]));
    }

    function shuffled(area) {
      const order = Array.from({ length: area }, (_, k) => k);
      for (let k = area - 1; k > 0; k--) {
        const other = Math.floor(Math.random() * (k + 1));
        [order[k], order[other]] = [order[other], order[k]];
      }
      return order;
    }

    function result(scores, brain, order) {
      const map = expand(scores, order);
      const probability = draw(map).map((logit, k) => (brain[k] ? sigmoid(logit) : 0));
      return { map, probability, mask: Uint8Array.from(probability, (p) => (p > 0.5 ? 1 : 0)) };
    }

    const scans = data.slices.map(({ image, truth, brain, map }) => {
      const scan = { image: atlaslib.bytes(image), brain: atlaslib.bits(brain) };
      Object.assign(scan, { best: {}, found: {}, told: {} }); // what the reader has reached with it
      const lesion = atlaslib.bits(truth);
      const other = mirrored(lesion);
      scan.targets = { lesion, mirrored: other, disc: disc(other) };
      scan.map = atlaslib.tensor(data.shapes.before, atlaslib.decoded(map, 32));
      scan.scores = encode(scan.map);
      scan.own = result(scan.scores, scan.brain);
      return scan;
    });

    const state = { scan: scans[0], other: scans[1], target: "lesion", blend: 0 };
    state.scores = [...state.scan.scores];
    state.front = state.back = null; // orders of the positions of the maps before and after
    let shown, waiting = false, searching = null;

    const target = (name = state.target) => state.scan.targets[name];
    const dice = (name) => atlaslib.dice(shown.mask, target(name));
    const area = (mask) => sum(mask) / 100;
    const share = (part, whole) =>
      sum(part) ? Math.round((100 * sum(part.map((value, k) => value & whole[k]))) / sum(part)) : 0;

    // --- the bars ---------------------------------------------------------------------------------

    const board = atlaslib.bars(length, REACH, network.colour, (k, z) => {
      stop();
      state.scores[k] = z ?? state.scan.scores[k];
      changed();
    }, read);
    const reading = element("p", { className: "caption" });

    function read(k) {
      reading.textContent =
        `Number ${k + 1}: ${signed(state.scores[k])} standard deviations from its mean ` +
        `(here ${signed(state.scan.scores[k])}).`;
    }

    // --- what is shown ------------------------------------------------------------------------------

    const view = atlaslib.screen(data.shown, 3,
      "A slice with the outline to draw and the mask that the numbers make. " +
        "Left and right arrow blend with another scan.");
    const patch = (colour, label) => atlaslib.named({ colour, label });
    const caption = element("p", { className: "caption" },
      patch(data.lesion, "target (dashed)"), patch(network.colour, "mask; shade: probability"),
      patch("#999999", "masks of both scans, while you blend"),
      element("output", {}, "Keys on the picture: left and right blend. On a bar: left and right go to " +
        "the next, up and down move it (Shift: faster), Delete puts it back."));
    const cells = [0, 1].map(() => [element("span"), element("span"), element("span")]);
    const table = atlaslib.table(["", "network", "now", "best"],
      [["Dice with the target", ...cells[0]], ["area of the mask", ...cells[1]]]);
    const spoken = element("p", { className: "spoken" });
    spoken.setAttribute("aria-live", "polite");

    // A map as a small picture: the mean magnitude of its channels.
    const picture = (label) => {
      const canvas = element("canvas", { className: "map" });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", label);
      return canvas;
    };
    const maps = {
      front: picture("The map before the numbers"),
      back: picture("The map made of the numbers"),
    };
    function showMap(canvas, { data: values, shape: [channels, rows, across] }) {
      const mean = Array.from({ length: rows * across }, (_, k) => {
        let total = 0;
        for (let c = 0; c < channels; c++) total += Math.abs(values[c * rows * across + k]);
        return total;
      });
      const top = Math.max(...mean, 1e-9), image = new ImageData(across, rows);
      mean.forEach((value, k) => {
        const level = (255 * value) / top;
        image.data.set([level, level, level, 255], 4 * k);
      });
      Object.assign(canvas, { width: across, height: rows });
      canvas.getContext("2d").putImageData(image, 0, 0);
    }

    function show() {
      const { image, own, map } = state.scan;
      const tint = [1, 3, 5].map((at) => parseInt(network.colour.slice(at, at + 2), 16));
      view.paint((k) => {
        const part = 0.6 * shown.probability[k];
        return tint.map((value) => part * value + (1 - part) * image[k]);
      });
      if (state.blend) for (const { mask } of [own, theirs()]) view.outline(mask, "#999999", 1.5);
      view.outline(shown.mask, network.colour, 3);
      view.outline(target(), data.lesion, 2.5, [8, 5]);
      showMap(maps.front, state.front ? reordered(map, state.front) : map);
      showMap(maps.back, shown.map);
      board.show(state.scores, state.scan.scores);
      const best = state.scan.best[state.target];
      const words = [
        [atlaslib.dice(own.mask, target()), dice(), best].map((value) => digits(value)),
        [own.mask, shown.mask].map((mask) => digits(area(mask), 1) + " cm²"),
      ];
      cells.forEach((line, n) => line.forEach((cell, m) => (cell.textContent = words[n][m] ?? "")));
    }

    // The other scan's mask within this slice's brain.
    const theirs = () => result(state.other.scores, state.scan.brain);

    function changed() {
      if (waiting) return;
      waiting = true;
      table.setAttribute("aria-busy", "true");
      setTimeout(() => {
        waiting = false;
        compute();
      });
    }

    function compute() {
      shown = result(state.scores, state.scan.brain, state.back);
      const { best } = state.scan;
      if (!state.back) best[state.target] = Math.max(best[state.target] || 0, dice() || 0);
      show();
      judge();
      table.setAttribute("aria-busy", "false");
    }

    // --- the tasks ------------------------------------------------------------------------------------

    const tasks = {
      single: "Look for a number that halves or doubles the mask by itself; for a large mask there may be none.",
      blend: "Blend into the other scan, slowly.",
      shuffle: "Shuffle the map before the numbers, then the one that is made of them.",
      outline: "Draw a target: bring Dice 0.1 above the network's own. What of it is never drawn?",
    };
    const lines = {};
    for (const name in tasks) lines[name] = element("li", {}, tasks[name] + " ", element("em"));
    const done = (name, words) => {
      lines[name].classList.add("done");
      state.scan.told[name] = words;
    };

    function judge() {
      const { scores, own, best, targets, found } = state.scan;
      const moved = scores.flatMap((z, k) => (Math.abs(z - state.scores[k]) > 1e-6 ? [k] : []));
      const [was, is] = [area(own.mask), area(shown.mask)];
      if (moved.length === 1 && !state.back && (was ? is <= was / 2 || is >= 2 * was : is)) {
        const [k] = moved, [a, b] = [centre(own.mask), centre(shown.mask)];
        const away = Math.round(Math.hypot(a[0] - b[0], a[1] - b[1]));
        done("single",
          `Number ${k + 1} from ${signed(scores[k])} to ${signed(state.scores[k])}: ${digits(was, 1)} ` +
          `cm² became ${digits(is, 1)}` + (was && is ? `, and the centre moved by ${away} mm.` : "."));
      }
      if (state.blend >= 40 && state.blend <= 60 && moved.length && !state.back) {
        const end = theirs().mask;
        found.halfway =
          `At ${state.blend} % the mask has ${digits(is, 1)} cm² (first ${digits(was, 1)}, last ` +
          `${digits(area(end), 1)}); ${share(shown.mask, own.mask)} % of it lies in the first mask, ` +
          `${share(shown.mask, end)} % in the last.`;
      }
      if (state.blend === 100 && found.halfway) done("blend", found.halfway);
      if (found.front && found.back) done("shuffle", `${found.front} ${found.back}`);
      const reached = Object.keys(best).filter((name) => {
        const first = atlaslib.dice(own.mask, targets[name]) || 0;
        return best[name] >= Math.min(first + 0.1, 0.95);
      });
      if (reached.length)
        done("outline", Object.keys(best).map((name) =>
          `${outlines[name]}: ${digits(atlaslib.dice(own.mask, targets[name]))} by the network, ` +
          `${digits(best[name])} at best`).join("; ") + ".");
      for (const name in lines) lines[name].lastChild.textContent = state.scan.told[name] || "";
      spoken.textContent = `Dice ${digits(dice())}, mask ${digits(is, 1)} square centimetres.`;
    }

    function shuffleFront() {
      const { map, scores, brain, own, found } = state.scan;
      restart();
      state.front = shuffled(map.shape[1] * map.shape[2]);
      state.scores = encode(reordered(map, state.front));
      const { probability } = result(state.scores, brain);
      found.front =
        `Before the numbers: none of them changes by more than ${digits(largest(state.scores, scores), 3)} ` +
        `standard deviations, no probability by more than ` +
        `${digits(largest(probability, own.probability), 3)}.`;
      changed();
    }

    function shuffleBack() {
      const { brain, found } = state.scan;
      stop();
      const { map, probability } = result(state.scores, brain);
      state.back = shuffled(map.shape[1] * map.shape[2]);
      const other = result(state.scores, brain, state.back);
      found.back =
        `Behind them: a probability changes by ${digits(largest(other.probability, probability), 2)}.`;
      changed();
    }

    // --- the search -----------------------------------------------------------------------------------

    // Dice of the probabilities with the target, at the network's resolution: it also notices what
    // does not cross the threshold. With logits times `sharpness` it comes near the mask's own.
    function softDice(scores, wanted, sharpness) {
      const { data } = network.model.forward(expand(scores), after);
      let both = 0, total = 0;
      for (let k = 0; k < data.length; k++) {
        const p = sigmoid(sharpness * data[k]);
        both += p * wanted[k];
        total += p + wanted[k];
      }
      return (2 * both) / total;
    }

    // Climb from the numbers of each scan and from their mean, and further from the best end. Where
    // the reader's numbers are plays no part, so that every search for a target ends alike.
    async function search() {
      if (searching) return stop();
      restart();
      const mine = (searching = {});
      const { scores } = state.scan, mean = scores.map(() => 0);
      const starts = new Set([scores, ...scans.map((scan) => scan.scores), mean]);
      let best = null, number = 0;
      for (const start of starts) {
        searchButton.textContent = `Stop (start ${++number} of ${starts.size})`;
        const end = await climb(start, 1, mine);
        if (searching !== mine) return;
        if (!best || end.dice > best.dice) best = end;
      }
      searchButton.textContent = "Stop (from the best end)";
      const end = await climb(best.scores, 4, mine);
      if (searching !== mine) return;
      stop();
      if (end.dice < best.dice) state.scores = best.scores;
      compute();
    }

    // Change one number after the other, and keep what brings the mask nearer to the target.
    async function climb(start, sharpness, mine) {
      const whole = target().map((value) => 255 * value);
      const wanted = atlaslib.modelInput([whole], network.model.view).data;
      state.scores = [...start];
      compute();
      let value = softDice(start, wanted, sharpness);
      for (let step = 2; step > 0.2; step /= 2)
        for (let gained = true; gained; ) {
          gained = false;
          for (let k = 0; k < length; k++)
            for (const way of [step, -step]) {
              const next = [...state.scores];
              next[k] = Math.min(Math.max(next[k] + way, -REACH), REACH);
              const reached = softDice(next, wanted, sharpness);
              if (reached <= value + Math.min(0.0005, value / 100)) continue; // hardly any gain
              [state.scores, value, gained] = [next, reached, true];
              read(k);
              compute();
              await new Promise((resolve) => setTimeout(resolve));
              if (searching !== mine) return;
            }
          await new Promise((resolve) => setTimeout(resolve));
          if (searching !== mine) return;
        }
      return { scores: state.scores, dice: dice() };
    }

    function stop() {
      searching = null;
      searchButton.textContent = "Let the browser search";
    }

    // --- the controls -----------------------------------------------------------------------------------

    const named = scans.map((_, n) => [n, `scan ${n + 1}`]);
    const outlines = { lesion: "lesion", mirrored: "mirror image", disc: "small disc" };
    const who = choice("Slice of", named, 0, (n) => {
      state.scan = scans[n];
      if (state.other === state.scan) state.other = scans[(+n + 1) % scans.length];
      partner.input.value = scans.indexOf(state.other);
      restart();
    });
    const partner = choice("Blend with", named, 1, (n) => {
      state.other = scans[n];
      delete state.scan.told.blend;
      restart();
    });
    const percent = (value) => `${value} %`;
    const blend = slider("Blend", { min: 0, max: 100, step: 5, value: 0, show: percent }, (value) => {
      stop();
      state.blend = value;
      state.scores = state.scan.scores.map((z, k) => z + (value / 100) * (state.other.scores[k] - z));
      state.front = state.back = null;
      changed();
    });
    const aim = choice("Target", Object.entries(outlines), "lesion", (name) => {
      stop();
      state.target = name;
      changed();
    });
    const button = (label, onclick) => element("button", { type: "button", onclick }, label);
    const searchButton = button("", search);
    function restart() {
      stop();
      state.scan.found.halfway = "";
      blend.set(0);
    }
    view.canvas.onkeydown = (event) => {
      const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      blend.set(Math.min(Math.max(state.blend + step, 0), 100));
    };

    const shuffling = (map, words, shuffle) =>
      element("figure", {}, map, element("figcaption", {}, words), button("Shuffle", shuffle));
    const flow = element("div", { className: "flow" },
      shuffling(maps.front, "before the numbers", shuffleFront),
      shuffling(maps.back, "made of the numbers", shuffleBack));
    const panel = element("div", { className: "controls" }, who.node, partner.node, blend.node, aim.node,
      element("div", { className: "buttons" }, searchButton, button("Start again", restart)));
    const list = element("ol", {}, ...Object.values(lines));
    live.replaceChildren(
      element("div", { className: "picture" }, view.canvas, caption),
      element("div", { className: "panel" }, board.node, reading, panel, table, flow, list, spoken));
    read(0);
    restart();
    compute();
    return board.first;
  }
})(window.atlaslib);
