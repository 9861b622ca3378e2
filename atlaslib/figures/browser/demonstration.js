// What the demonstrations share: starting, loading networks, drawing, controls.
"use strict";
window.atlaslib = window.atlaslib || {};
(function (atlaslib) {
  // in the book, the networks' script files lie beside this one; in a notebook they are in its page
  const beside = ((document.currentScript || {}).src || "").replace(/[^/]*$/, "");
  const { ROWS, COLUMNS } = atlaslib;
  const loaded = {}; // networks by name, each made once per page

  // Replace the still picture by the live demonstration once the reader asks for it.
  function start(id, data, begin) {
    const root = document.getElementById(id);
    const find = (name) => root.querySelector("." + name);
    const button = element("button", { type: "button", className: "begin" }, "Start");
    find("still").append(button);
    button.onclick = async () => {
      button.disabled = true;
      button.textContent = "Loading …";
      try {
        const networks = await Promise.all(data.networks.map(network));
        const focus = begin(find("live"), data, networks);
        root.classList.add("started");
        focus.focus({ preventScroll: true });
      } catch (error) {
        button.disabled = false;
        button.textContent = `It cannot start here: ${error.message}. Try again`;
        button.focus();
      }
    };
  }

  async function network({ name, label, colour, shipped }) {
    if (shipped && !loaded[name]) {
      if (!(atlaslib.networks || {})[name]) await script(beside + "network-" + name + ".js");
      loaded[name] = new atlaslib.Network(atlaslib.networks[name]);
    }
    return { name, label, colour, model: loaded[name] };
  }

  function script(address) {
    return new Promise((resolve, reject) => {
      const failed = () => reject(new Error(address + " is missing"));
      document.head.append(element("script", { src: address, onload: resolve, onerror: failed }));
    });
  }

  // --- elements of the page ---------------------------------------------------------------------

  function element(kind, properties = {}, ...content) {
    const made = Object.assign(document.createElement(kind), properties);
    made.append(...content);
    return made;
  }

  // A labelled slider; `show` words its value, `change` is called when it moves.
  function slider(label, { min, max, step, value, show }, change) {
    const input = element("input", { type: "range", min, max, step, value });
    const output = element("output");
    const word = () => {
      output.textContent = show(+input.value);
      input.setAttribute("aria-valuetext", show(+input.value));
    };
    input.setAttribute("aria-label", label); // else the value would be part of its name
    input.oninput = () => {
      word();
      change(+input.value);
    };
    word();
    const set = (next) => {
      input.value = next;
      input.oninput();
    };
    return { node: element("label", {}, element("span", {}, label), input, output), set };
  }

  // A labelled choice among [value, words].
  function choice(label, options, value, change) {
    const input = element("select", { onchange: () => change(input.value) });
    input.append(...options.map(([name, words]) => element("option", { value: name }, words)));
    input.value = value;
    return { node: element("label", {}, element("span", {}, label), input), input };
  }

  // Bars from -reach to reach, to drag or to move with the arrow keys. `change(k, z)` is called
  // when the reader moves bar k; without a z it should go back to its mark. `read(k)` is called
  // when bar k gets the focus.
  function bars(length, reach, colour, change, read) {
    const columns = Math.min(length, 32), rows = Math.ceil(length / columns), step = 0.1;
    const list = Array.from({ length }, (_, k) => {
      const bar = element("span", { tabIndex: k ? -1 : 0 }, element("i"), element("b"));
      const fixed = {
        role: "slider", "aria-label": `number ${k + 1}`, "aria-orientation": "vertical",
        "aria-valuemin": -reach, "aria-valuemax": reach,
      };
      for (const name in fixed) bar.setAttribute(name, fixed[name]);
      bar.firstChild.style.background = colour;
      bar.onkeydown = (event) => press(event, k);
      bar.onfocus = () => read(k);
      return bar;
    });
    const board = element("div", { className: "bars" }, ...list);
    board.style.setProperty("--columns", columns);
    const value = (k) => +list[k].dataset.value;
    const clamp = (z) => Math.min(Math.max(z, -reach), reach);
    const set = (k, z) => {
      list[k].dataset.value = clamp(z);
      change(k, clamp(z));
      read(k);
    };

    // The values, and beside each a mark.
    function show(values, marks) {
      const end = (z) => 50 - (50 * clamp(z)) / reach; // from the top, in per cent
      list.forEach((bar, k) => {
        const [fill, mark] = bar.children;
        fill.style.top = Math.min(end(values[k]), 50) + "%";
        fill.style.bottom = 100 - Math.max(end(values[k]), 50) + "%";
        mark.style.top = end(marks[k]) + "%";
        bar.dataset.value = values[k];
        bar.setAttribute("aria-valuenow", digits(values[k], 1));
      });
    }

    function focus(k) {
      list.forEach((bar, n) => (bar.tabIndex = n === k ? 0 : -1));
      list[k].focus({ preventScroll: true });
    }

    function press(event, k) {
      const far = event.shiftKey ? 10 * step : step;
      const actions = {
        ArrowLeft: () => focus(Math.max(k - 1, 0)),
        ArrowRight: () => focus(Math.min(k + 1, length - 1)),
        ArrowUp: () => set(k, value(k) + far),
        ArrowDown: () => set(k, value(k) - far),
        Home: () => set(k, -reach),
        End: () => set(k, reach),
        Delete: () => (change(k), read(k)),
        Backspace: () => (change(k), read(k)),
      };
      if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions[event.key]();
    }

    // a drag sets each bar that it passes, within the row where it began
    let row = null;
    function drag(event) {
      const box = board.getBoundingClientRect();
      const within = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
      row = row ?? within((event.clientY - box.top) / box.height, rows);
      const k = row * columns + within((event.clientX - box.left) / box.width, columns);
      if (k >= length) return;
      const { top, height } = list[k].getBoundingClientRect();
      focus(k);
      set(k, reach * (1 - (2 * (event.clientY - top)) / height));
    }
    board.onpointerdown = (event) => {
      if (!event.isPrimary || event.button) return;
      event.preventDefault();
      board.setPointerCapture(event.pointerId);
      drag(event);
    };
    board.onpointermove = (event) => row !== null && drag(event);
    board.onpointerup = board.onpointercancel = () => (row = null);
    return { node: board, first: list[0], show };
  }

  // A network's name beside a patch of its colour.
  function named({ label, colour }) {
    const patch = element("span", { className: "patch" });
    patch.style.background = colour;
    return element("span", {}, patch, label);
  }

  function table(heads, rows) {
    const row = (cells, kind) => element("tr", {}, ...cells.map((cell) => element(kind, {}, cell)));
    const body = element("tbody", {}, ...rows.map((cells) => row(cells, "td")));
    return element("table", {}, element("thead", {}, row(heads, "th")), body);
  }

  // --- slices -------------------------------------------------------------------------------------

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // One bit a pixel, the first in the highest bit of a byte.
  function bits(text) {
    const packed = bytes(text);
    return Uint8Array.from({ length: ROWS * COLUMNS }, (_, k) => (packed[k >> 3] >> (7 - (k & 7))) & 1);
  }

  function dice(predicted, truth) {
    let both = 0, total = 0;
    for (let k = 0; k < truth.length; k++) {
      both += predicted[k] & truth[k];
      total += predicted[k] + truth[k];
    }
    return total ? (2 * both) / total : NaN;
  }

  const digits = (value, places = 2) => (Number.isFinite(value) ? value.toFixed(places) : "–");

  // A canvas of the part of a slice around the brain, with `scale` points a pixel.
  function screen([top, left, height, width], scale, label) {
    const canvas = element("canvas", { width: width * scale, height: height * scale, tabIndex: 0 });
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", label);
    const context = canvas.getContext("2d");
    const small = element("canvas", { width, height });

    // `colours(k)` gives the red, green and blue of a pixel of the slice
    function paint(colours) {
      const picture = new ImageData(width, height);
      for (let row = 0, to = 0; row < height; row++)
        for (let column = 0; column < width; column++, to += 4) {
          picture.data.set(colours((top + row) * COLUMNS + left + column), to);
          picture.data[to + 3] = 255;
        }
      small.getContext("2d").putImageData(picture, 0, 0);
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
    }

    // The edges of the mask's pixels, joined to lines along which dashes can run.
    function outline(mask, colour, thickness, dash = []) {
      const ends = new Map(); // of the edges that begin at a place, clockwise around the mask
      const edge = (a, b, c, d) => {
        const begin = `${a} ${b}`;
        ends.set(begin, [...(ends.get(begin) || []), [c, d]]);
      };
      for (let row = 0; row < height; row++)
        for (let column = 0; column < width; column++) {
          const k = (top + row) * COLUMNS + left + column;
          if (!mask[k]) continue;
          const x = column * scale, y = row * scale;
          if (!mask[k - 1]) edge(x, y + scale, x, y);
          if (!mask[k + 1]) edge(x + scale, y, x + scale, y + scale);
          if (!mask[k - COLUMNS]) edge(x, y, x + scale, y);
          if (!mask[k + COLUMNS]) edge(x + scale, y + scale, x, y + scale);
        }
      context.beginPath();
      for (const [begin, list] of ends)
        while (list.length) {
          context.moveTo(...begin.split(" "));
          for (let next = list.pop(); next; next = (ends.get(next.join(" ")) || []).pop())
            context.lineTo(...next);
        }
      context.setLineDash(dash);
      context.lineWidth = thickness;
      context.strokeStyle = colour;
      context.stroke();
    }

    // The pixel of the slice under the pointer, as fractions.
    function place(event) {
      const box = canvas.getBoundingClientRect();
      const x = left + ((event.clientX - box.left) / box.width) * width;
      return [x, top + ((event.clientY - box.top) / box.height) * height];
    }
    return { canvas, paint, outline, place };
  }

  Object.assign(atlaslib, {
    start, element, slider, choice, bars, named, table, bytes, bits, dice, digits, screen,
  });
})(window.atlaslib);
