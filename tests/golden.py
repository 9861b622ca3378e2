"""Golden values: what this engine and this generator compute, held by ``test_golden.py``.

    python tests/golden.py            # compute them again and say what differs
    python tests/golden.py --renew    # store them, after ENGINE or GENERATOR has been raised

Names of parts ("training", "scoring", "recipes", "cohort") limit what is computed.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sessions import new_session
from torch import nn
from volumes import write_scan

from atlaslib import Recipe, SliceDataset, load_cohort, recipe
from atlaslib.data.slices import normalise
from atlaslib.data.splits import TEST
from atlaslib.evaluation.scoring import validate
from atlaslib.models import MODELS
from atlaslib.runs import ENGINE
from atlaslib.synthetic.cohort import GENERATOR, make_scan
from atlaslib.synthetic.people import draw_people
from atlaslib.synthetic.scanner import SCANNERS, SHIFTED
from atlaslib.training.batches import epoch_batches, epoch_order

STORED = Path(__file__).with_suffix(".json")
STEPS = 4  # of training: later ones amplify how a processor rounds
TOLERANCE = 5e-4  # relative; without oneDNN and with two threads the ResNet reaches 3.5e-4


class Darkness(nn.Module):
    """Calls what is darker than its surroundings lesion: it needs no training."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * (F.avg_pool2d(x, 9, 1, 4) - x - self.bias)


def training() -> dict[str, Any]:
    """The losses of every model's first steps on three tiny scans, with clipped gradients."""
    found, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # more would round sums differently, and wait on a busy machine
    try:
        for name in MODELS:
            chosen = recipe(name, "smoke", batch_size=4, clip_norm=0.003)
            session = new_session(chosen, tiny_cohort())
            order = epoch_order(session.slices.table, chosen, epoch=0)
            batches = (part[:STEPS] for part in epoch_batches(order, chosen, epoch=0))
            session.model.train()
            found[name] = [session.step(*each).item() for each in session.batches.iterate(*batches)]
    finally:
        torch.set_num_threads(threads)
    return found


def scoring() -> dict[str, Any]:
    """Every score of two scans that a fixed rule segments."""
    slices = SliceDataset(tiny_cohort()[:2], progress=False)
    found = {}
    for name, changes in {
        "paper": {},
        "quick": {"window": True, "downsample": 3, "pos_weight": 5.0},
        "flip_tta": {"downsample": 4, "flip_tta": True, "split": "slice"},
    }.items():
        chosen = recipe("baseline", "paper", **changes)
        found[name] = validate(Darkness(), slices, chosen, TEST)
    return found


def recipes() -> dict[str, Any]:
    """The defaults of a recipe's fields, which no key and no table mentions."""
    return {f.name: f.default for f in dataclasses.fields(Recipe) if f.name != "model"}


def cohort() -> dict[str, Any]:
    """Two synthetic subjects, one by a usual and one by an unseen scanner, and all scanners."""
    found: dict[str, Any] = {
        "scanners": [dataclasses.astuple(scanner) for scanner in (*SCANNERS, *SHIFTED)]
    }
    people = draw_people(20, seed=3)
    volumes = [sum(lesion.volume for lesion in person.lesions) for person in people]
    found["volumes"] = volumes
    order = np.argsort(volumes)
    for name, place, shifted in (("small", 4, False), ("large", 15, True)):
        made = make_scan(people[order[place]], "t01", shifted)
        t1, within = made.t1, np.any(made.masks, axis=0)
        found[name] = {
            "voxels": t1[10::24, 10::24, 10::24].ravel().tolist(),
            "mean": float(t1.mean()),
            "levels": float(normalise(t1)[t1 > 0].mean()),
            "in the lesion": float(t1[within].mean()),
            "around it": float(t1[np.roll(within, 4, 0) & ~within].mean()),
            "lesions": [int(mask.sum()) for mask in made.masks],
            "exact": int(made.exact.sum()),
            "centre": np.argwhere(within).mean(0).tolist(),
        }
    return found


@cache
def tiny_cohort() -> Any:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for number in range(5):
        write_scan(Path(folder), f"03184{number}", seed=number)
    return load_cohort(folder)


PARTS = {"training": training, "scoring": scoring, "recipes": recipes, "cohort": cohort}


def differences(stored: Any, found: Any, place: str = "") -> list[str]:
    """Where two trees of values differ by more than the tolerance; what is new does not count."""
    if isinstance(stored, dict):
        return [
            line
            for key, value in stored.items()
            for line in differences(value, found.get(key), f"{place} {key}")
        ]
    if isinstance(stored, list) and isinstance(found, list | tuple) and len(stored) == len(found):
        pairs = zip(stored, found, strict=True)
        return [line for pair in pairs for line in differences(*pair, place)]
    same = stored == found
    if isinstance(stored, float) and isinstance(found, int | float):
        same = math.isclose(stored, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 10)
    return [] if same else [f"{place.strip()}: {stored} is now {found}"]


def main(arguments: list[str]) -> int:
    names = [name for name in arguments if name != "--renew"] or list(PARTS)
    os.environ["ATLASLIB_HOME"] = tempfile.mkdtemp()
    found = {name: PARTS[name]() for name in names}
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    if "--renew" in arguments:
        stored |= {"engine": ENGINE, "generator": GENERATOR} | found
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
        return 0
    lines = differences({name: stored[name] for name in names}, found)
    print(*lines, sep="\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
