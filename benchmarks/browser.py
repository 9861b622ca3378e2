"""How long the networks take to segment a slice in the browser.

    python benchmarks/browser.py [--chromium PATH] [--rounds 20]

Prints a row for each network shipped with the library: milliseconds a slice in a headless Chromium
on this machine, from 232 x 196 bytes to 232 x 196 logits, and how far these are from PyTorch's.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from playwright.sync_api import sync_playwright

import atlaslib
from atlaslib.data.model_input import with_context
from atlaslib.evaluation.inference import slice_logits
from atlaslib.evaluation.pretrained import pretrained_names
from atlaslib.figures.browser.written import network_script, script, written_network

Z = 90
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MEASURE = """([name, slices, rounds]) => {
  const network = new atlaslib.Network(atlaslib.networks[name]);
  slices = slices.map((levels) => Uint8Array.from(levels));
  const times = [];
  let logits;
  for (let round = 0; round < rounds; round++) {
    const begun = performance.now();
    logits = network.segment(slices);
    times.push(performance.now() - begun);
  }
  return [times, Array.from(logits)];
}"""


def measure(page: Any, name: str, rounds: int) -> dict[str, Any]:
    """The median time of the rounds after the first five, in which the browser compiles.

    On a busy machine, the fastest round says more.
    """
    network = atlaslib.load_pretrained(name)
    written = network_script(name, written_network(network.model(), network.recipe))
    page.add_script_tag(content=written)
    images = torch.randint(0, 256, (189, 232, 196), dtype=torch.uint8)
    stack = [images[z].flatten().tolist() for z in with_context(np.array([Z]), network.recipe)[0]]
    times, logits = page.evaluate(MEASURE, [name, stack, rounds + 5])
    exact = slice_logits(network.model(), images, network.recipe, [Z], brain_only=False)[0]
    return {
        "network": name,
        "MB": len(written) / 1e6,
        "first, ms": times[0],
        "ms a slice": float(np.median(times[5:])),
        "fastest, ms": min(times),
        "largest difference": np.abs(np.array(logits) - exact.numpy().ravel()).max(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the networks in the browser.")
    known = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    text = "default: the one that is installed, else playwright's own"
    parser.add_argument(
        "--chromium", default=next(filter(None, known), None), metavar="PATH", help=text
    )
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=OPTIONS)
        page = browser.new_page()
        page.add_script_tag(content=script("network.js"))
        rows = [measure(page, name, args.rounds) for name in pretrained_names()]
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"Chromium {browser.version}, {args.rounds} rounds; load {load}")
        browser.close()
    print(pd.DataFrame(rows).round(6).to_string(index=False))


if __name__ == "__main__":
    main()
