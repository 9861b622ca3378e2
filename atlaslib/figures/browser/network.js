// A trained network, run in the browser: the forward pass in plain JavaScript.
//
// A tensor is {data: Float64Array, shape: [channels, rows, columns]}: one slice, without PyTorch's
// batch dimension (doubles, because converting each number from 32 bits takes longer than the
// arithmetic). A network is a list of steps [operation, output, arguments], written by PyTorch's
// own tracer. The operations below bear PyTorch's names and take its arguments in its order.
"use strict";
window.atlaslib = window.atlaslib || {};
(function (atlaslib) {
  const size = (shape) => shape.reduce((a, b) => a * b, 1);
  const tensor = (shape, data) => ({ data: data || new Float64Array(size(shape)), shape });
  const map = (x, f) => tensor(x.shape, x.data.map(f));

  // --- convolutions ---------------------------------------------------------------------------

  // A frame of zeros around every channel.
  function framed(x, top, left) {
    const [channels, rows, columns] = x.shape;
    if (!top && !left) return x;
    const out = tensor([channels, rows + 2 * top, columns + 2 * left]);
    for (let row = 0; row < channels * rows; row++) {
      const channel = Math.floor(row / rows);
      const to = (row + top * (2 * channel + 1)) * out.shape[2] + left;
      out.data.set(x.data.subarray(row * columns, (row + 1) * columns), to);
    }
    return out;
  }

  function conv2d(x, weight, bias, stride = [1, 1], padding = [0, 0]) {
    const [filters, channels, height, width] = weight.shape;
    const input = framed(x, ...padding);
    const [, h, w] = input.shape;
    const rows = Math.floor((h - height) / stride[0]) + 1;
    const columns = Math.floor((w - width) / stride[1]) + 1;
    const out = tensor([filters, rows, columns]);
    const kernel = [height, width];
    const add = height === 3 && width === 3 ? addThreeByThree : addFilter;
    for (let f = 0, k = 0; f < filters; f++) {
      const to = f * rows * columns;
      if (bias) out.data.fill(bias.data[f], to, to + rows * columns);
      for (let c = 0; c < channels; c++, k += height * width)
        add(out.data, to, [rows, columns], input.data, c * h * w, w, weight.data, k, stride, kernel);
    }
    return out;
  }

  // out[row, column] += the sum of weight[i, j] * x[row + i, column + j]; arrays begin at `to`,
  // `from` and `at`, and a row of x has w numbers. For any size of filter:
  function addFilter(out, to, [rows, columns], x, from, w, weight, at, [down, right], [height, width]) {
    for (let i = 0; i < height; i++)
      for (let j = 0; j < width; j++, at++)
        for (let row = 0, k = to; row < rows; row++) {
          let p = from + (row * down + i) * w + j;
          for (const end = k + columns; k < end; k++, p += right) out[k] += weight[at] * x[p];
        }
  }

  // The same, written out for 3 x 3, where networks spend nearly all of their time.
  function addThreeByThree(out, to, [rows, columns], x, from, w, weight, at, [down, right]) {
    const a = weight[at], b = weight[at + 1], c = weight[at + 2];
    const d = weight[at + 3], e = weight[at + 4], f = weight[at + 5];
    const g = weight[at + 6], h = weight[at + 7], i = weight[at + 8];
    for (let row = 0, k = to; row < rows; row++) {
      let p = from + row * down * w, q = p + w, r = q + w;
      for (const end = k + columns; k < end; k++, p += right, q += right, r += right)
        out[k] +=
          a * x[p] + b * x[p + 1] + c * x[p + 2] +
          d * x[q] + e * x[q + 1] + f * x[q + 2] +
          g * x[r] + h * x[r + 1] + i * x[r + 2];
    }
  }

  // With stride 1 a transposed convolution is a convolution: the filter is turned by half a turn,
  // its two channel dimensions change places, and the frame is as wide as the filter reaches.
  function conv_transpose2d(x, weight, bias) {
    const [channels, filters, height, width] = weight.shape;
    const turned = tensor([filters, channels, height, width]);
    const area = height * width;
    for (let f = 0; f < filters; f++)
      for (let c = 0; c < channels; c++)
        for (let k = 0; k < area; k++)
          turned.data[(f * channels + c) * area + k] =
            weight.data[(c * filters + f) * area + (area - 1 - k)];
    return conv2d(x, turned, bias, [1, 1], [height - 1, width - 1]);
  }

  function linear(x, weight, bias) {
    const [numbers, length] = weight.shape;
    const out = tensor([numbers]);
    for (let n = 0; n < numbers; n++) {
      let sum = bias ? bias.data[n] : 0;
      for (let k = 0; k < length; k++) sum += weight.data[n * length + k] * x.data[k];
      out.data[n] = sum;
    }
    return out;
  }

  // --- normalisation and activation -------------------------------------------------------------

  // Each channel times a number, plus another.
  function scaled(x, scale, shift) {
    const area = size(x.shape.slice(1));
    const out = tensor(x.shape);
    for (let c = 0, k = 0; c < x.shape[0]; c++) {
      const factor = scale(c), offset = shift(c);
      for (const end = k + area; k < end; k++) out.data[k] = factor * x.data[k] + offset;
    }
    return out;
  }

  function batch_norm(x, weight, bias, mean, variance, training, momentum, eps) {
    const scale = (c) => weight.data[c] / Math.sqrt(variance.data[c] + eps);
    return scaled(x, scale, (c) => bias.data[c] - mean.data[c] * scale(c));
  }

  // Mean and variance are those of a group of channels in this slice.
  function group_norm(x, groups, weight, bias, eps) {
    const length = x.data.length / groups;
    const means = [], roots = [];
    for (let g = 0; g < groups; g++) {
      const part = x.data.subarray(g * length, (g + 1) * length);
      let sum = 0, squares = 0;
      for (const value of part) sum += value;
      const mean = sum / length;
      for (const value of part) squares += (value - mean) * (value - mean);
      means.push(mean);
      roots.push(Math.sqrt(squares / length + eps));
    }
    const group = (c) => Math.floor((c * groups) / x.shape[0]);
    const scale = (c) => weight.data[c] / roots[group(c)];
    return scaled(x, scale, (c) => bias.data[c] - means[group(c)] * scale(c));
  }

  const leaky_relu = (x, slope = 0.01) => map(x, (value) => (value > 0 ? value : slope * value));
  const relu = (x) => leaky_relu(x, 0);
  const dropout = (x) => x; // after training nothing is dropped

  // --- sizes ------------------------------------------------------------------------------------

  // Blocks of `kernel` pixels, each replaced by what `reduce` makes of its values.
  function pooled(x, [height, width], [down, right], roundUp, reduce) {
    const [channels, h, w] = x.shape;
    const round = roundUp ? Math.ceil : Math.floor;
    const rows = round((h - height) / down) + 1;
    const columns = round((w - width) / right) + 1;
    const out = tensor([channels, rows, columns]);
    for (let c = 0, k = 0; c < channels; c++)
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++, k++) {
          const values = [];
          for (let i = row * down; i < Math.min(row * down + height, h); i++)
            for (let j = column * right; j < Math.min(column * right + width, w); j++)
              values.push(x.data[(c * h + i) * w + j]);
          out.data[k] = reduce(values);
        }
    return out;
  }

  const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const largest = (values) => Math.max(...values);
  const avg_pool2d = (x, kernel, stride = [], padding = [0, 0], roundUp = false) =>
    pooled(x, kernel, stride.length ? stride : kernel, roundUp, average);
  const max_pool2d = (x, kernel, stride = []) =>
    pooled(x, kernel, stride.length ? stride : kernel, false, largest);

  const adaptive_avg_pool2d = (x) => avg_pool2d(x, x.shape.slice(1)); // to one number a channel

  // Which two pixels an enlarged one lies between, and how near to the second; ends are repeated.
  function neighbours(long, short) {
    return Array.from({ length: long }, (_, k) => {
      const place = Math.max(((k + 0.5) * short) / long - 0.5, 0);
      const first = Math.min(Math.floor(place), short - 1);
      return [first, Math.min(first + 1, short - 1), place - first];
    });
  }

  function upsample_bilinear2d(x, shape, corners, factors) {
    const [channels, h, w] = x.shape;
    const [rows, columns] = shape || [h * factors[0], w * factors[1]];
    const out = tensor([channels, rows, columns]);
    const down = neighbours(rows, h), right = neighbours(columns, w);
    for (let c = 0, k = 0; c < channels; c++)
      for (const [top, bottom, v] of down) {
        const upper = (c * h + top) * w, lower = (c * h + bottom) * w;
        for (const [i, j, u] of right)
          out.data[k++] =
            (1 - v) * ((1 - u) * x.data[upper + i] + u * x.data[upper + j]) +
            v * ((1 - u) * x.data[lower + i] + u * x.data[lower + j]);
      }
    return out;
  }

  // --- joining and cutting ------------------------------------------------------------------------

  const add = (x, y) => map(x, (value, k) => value + y.data[k]);

  function cat(parts) {
    const channels = parts.reduce((sum, part) => sum + part.shape[0], 0);
    const out = tensor([channels, ...parts[0].shape.slice(1)]);
    let at = 0;
    for (const part of parts) {
      out.data.set(part.data, at);
      at += part.data.length;
    }
    return out;
  }

  // Channels of zeros before and after the others.
  function pad(x, [, , , , before, after]) {
    const [channels, ...rest] = x.shape;
    const out = tensor([before + channels + after, ...rest]);
    out.data.set(x.data, before * size(rest));
    return out;
  }

  // From `start` to `end` along a dimension, which is counted with the batch's.
  function slice(x, dimension, start, end) {
    const axis = dimension - 1, length = x.shape[axis], inner = size(x.shape.slice(axis + 1));
    const stop = end < 0 ? length + end : Math.min(end, length);
    const shape = [...x.shape];
    shape[axis] = stop - start;
    const out = tensor(shape);
    for (let k = 0; k < x.data.length / (length * inner); k++) {
      const block = x.data.subarray((k * length + start) * inner, (k * length + stop) * inner);
      out.data.set(block, k * block.length);
    }
    return out;
  }

  const flatten = (x) => tensor([x.data.length], x.data);
  const unflatten = (x, dimension, shape) => tensor(shape, x.data);

  const OPERATIONS = {
    conv2d, conv_transpose2d, linear, batch_norm, group_norm, leaky_relu, relu, dropout,
    avg_pool2d, max_pool2d, adaptive_avg_pool2d, upsample_bilinear2d, add, cat, pad, slice,
    flatten, unflatten,
  };

  // --- a network ----------------------------------------------------------------------------------

  // Little-endian numbers of 16 or 32 bits in base64.
  function decoded(text, bits) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    if (bits === 32) return Float64Array.from(new Float32Array(bytes.buffer));
    return Float64Array.from(new Uint16Array(bytes.buffer), (half) => {
      const sign = half >> 15 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction / 2 ** 24);
    });
  }

  class Network {
    // `written` is what Python's `written_network` makes.
    constructor(written) {
      Object.assign(this, written);
      const numbers = decoded(written.weights, written.bits);
      let at = 0;
      this.known = {};
      for (const [name, shape] of written.shapes) {
        this.known[name] = tensor(shape, numbers.subarray(at, at + size(shape)));
        at += size(shape);
      }
    }

    // The model's input to its logits; or from any tensor on the way, by its name, to a later one.
    forward(x, from = "x", to = null) {
      const values = { ...this.known, [from]: x };
      const value = (given) =>
        typeof given === "string" ? values[given]
        : Array.isArray(given) ? given.map(value)
        : given === null ? undefined : given;
      const first = this.steps.findIndex(([, output]) => output === from) + 1;
      let last = x;
      for (const [operation, output, given] of this.steps.slice(first)) {
        last = values[output] = OPERATIONS[operation](...given.map(value));
        if (output === to) break;
      }
      return last;
    }

    // Slices of 232 x 196 bytes, the one to segment in the middle, to its 232 x 196 logits.
    segment(slices) {
      const x = modelInput(slices, this.view);
      let logits = this.forward(x);
      if (this.view.mirror) {
        const other = mirrored(this.forward(mirrored(x)));
        logits = map(logits, (value, k) => (value + other.data[k]) / 2);
      }
      return this.whole(logits);
    }

    // The logits of what the network sees to those of the whole slice.
    whole(logits) {
      return fullResolution(logits, this.view);
    }
  }

  // --- what a network sees of a slice, and back -----------------------------------------------------

  const ROWS = 232, COLUMNS = 196;

  // The means of blocks of pixels within the window, in 0..1; beyond the window there are zeros.
  function modelInput(slices, { top, left, height, width, block, rows, columns }) {
    const out = tensor([slices.length, rows, columns]);
    slices.forEach((image, channel) => {
      for (let row = 0; row < height; row++)
        for (let column = 0; column < width; column++) {
          const to = Math.floor(row / block) * columns + Math.floor(column / block);
          const level = image[(top + row) * COLUMNS + left + column];
          out.data[channel * rows * columns + to] += level / (255 * block * block);
        }
    });
    return out;
  }

  function mirrored(x) {
    const columns = x.shape[2];
    return map(x, (_, k) => x.data[k - (k % columns) + columns - 1 - (k % columns)]);
  }

  function fullResolution(logits, { top, left, height, width, block, nothing }) {
    const large = block > 1 ? upsample_bilinear2d(logits, null, false, [block, block]) : logits;
    const out = new Float64Array(ROWS * COLUMNS).fill(nothing);
    for (let row = 0; row < height; row++) {
      const from = row * large.shape[2];
      out.set(large.data.subarray(from, from + width), (top + row) * COLUMNS + left);
    }
    return out;
  }

  Object.assign(atlaslib, { Network, OPERATIONS, ROWS, COLUMNS, tensor, decoded, modelInput });
})(window.atlaslib);
