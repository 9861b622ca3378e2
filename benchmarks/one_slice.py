"""One slice of a test person, as a training of each arm of the protocol marks it.

    python benchmarks/one_slice.py [--out FILE.npz] [--picture FILE.png]

The person is the one on whom the baseline's Dice, a mean over its trainings, is higher than on
three in four; the slice is the one with most lesion. The networks are those of seed 1 that are in
the table of trainings. They are read from ATLASLIB_HOME, and trained again where they are missing,
which takes minutes for each.

The file, by default ``data/results/quick/slice.npz``, has "image", "truth", a mask for each arm
(rows, columns), and "about", a JSON text. The picture, by default that of the README, shows some.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import atlaslib
from atlaslib.evaluation.inference import probabilities
from atlaslib.figures.base import COLOURS, colour, panels, show_slice
from atlaslib.figures.browser.demonstration import SHOWN
from atlaslib.files import atomic_write, shipped
from atlaslib.paper import protocol, sweep

PROFILE, SEED = "quick", 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One slice through every arm.")
    default = shipped("results") / PROFILE / "slice.npz"
    parser.add_argument("--out", type=Path, default=default, metavar="FILE.npz")
    readme = Path(__file__).resolve().parent.parent / "book" / "_static" / "overview.png"
    parser.add_argument("--picture", type=Path, default=readme, metavar="FILE.png")
    args = parser.parse_args(arguments)

    plan = protocol.PLANS[PROFILE]
    test = sweep.people(PROFILE, protocol.TEST_PEOPLE, plan.test_people)
    own = sweep.people(PROFILE, protocol.MAIN_PEOPLE + SEED, plan.people)
    subject = chosen_subject()
    position = [scan.subject for scan in test].index(subject)
    images, truth = (x.numpy() for x in atlaslib.SliceDataset(test, progress=False).scan(position))
    z = int(truth.sum((1, 2)).argmax())
    shown = {"image": images[z].astype(np.uint8), "truth": truth[z] > 0.5}
    for job in finished():
        run = atlaslib.train(job.recipe, own, progress=False)
        shown[job.arm] = probabilities(run, test[position])[z] > 0.5
        print(f"{job.arm}: {atlaslib.dice(shown[job.arm], shown['truth']):.3f}", flush=True)
    about = {"source": test.source, "subject": subject, "slice": z, "seed": SEED}
    shown["about"] = np.array(json.dumps(about))

    def write(name: str) -> None:
        with open(name, "wb") as file:
            np.savez_compressed(file, **shown)

    atomic_write(args.out, write)
    picture(shown).savefig(args.picture, dpi=110)
    return 0


def picture(shown: dict[str, np.ndarray]) -> Figure:
    """The slice, the traced lesion, and what the paper's two networks and one of today mark."""
    top, left, height, width = SHOWN
    window = np.s_[top : top + height, left : left + width]
    titles = {"truth": "traced lesion", "resnet": "ResNet", "residual_unet": "a network of today"}
    figure, axes = panels(1, 5, width=10, height=2.8)
    show_slice(axes[0, 0], shown["image"][window], title="synthetic scan")
    for axis, name in zip(
        axes[0, 1:], ("truth", "baseline", "resnet", "residual_unet"), strict=True
    ):
        tint = COLOURS["lesion"] if name == "truth" else colour(name)
        show_slice(axis, shown["image"][window], shown[name][window], tint, titles.get(name, name))
    return figure


def chosen_subject() -> str:
    """The person on whom the baseline does better than on three in four."""
    scans = sweep.read_table(shipped("results") / PROFILE, "scans")
    scores = scans[(scans.arm == "baseline") & (scans.people == "known")]
    ranked = scores.groupby("subject").dice.mean().sort_values()
    return str(ranked.index[3 * len(ranked) // 4])


def finished() -> list[protocol.Job]:
    """The trainings of this seed that are in the table, on the verdicts' grid and split."""
    place = shipped("results") / PROFILE
    runs = sweep.read_table(place, "runs")
    choice = protocol.choose(PROFILE, sweep.read_table(place, "history"))
    listed = [job for job in protocol.jobs(PROFILE, choice) if job.seed == SEED]
    left = sweep.missing(listed, runs, runs.data.iloc[0])
    return [
        job
        for job in listed
        if job not in left
        and job.recipe.split == "subject"
        and job.recipe.downsample == protocol.PLANS[PROFILE].downsample[0]
    ]


if __name__ == "__main__":
    raise SystemExit(main())
