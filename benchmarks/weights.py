"""The network that the library ships: its cohort, its training, its scores, its card.

    python benchmarks/weights.py [--profile full|smoke] [--heads FOLDER] [--out DIR]

Makes a synthetic cohort, trains on it, scores the network as it is shipped, in half precision, on
synthetic people of another seed and on the heads of ``benchmarks/heads.py``, and writes weights and
card to ``data/weights``; at the smoke profile, to a folder of its own in the library's home. What
is finished is not repeated: start it again after an interruption.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import atlaslib
from atlaslib import Cohort, Recipe, Run, dice
from atlaslib.data.cohort import EXACT
from atlaslib.data.volumes import read_image, read_scan
from atlaslib.evaluation.heads import LARGE, by_head, score_heads
from atlaslib.evaluation.pretrained import publish
from atlaslib.recipes import Value
from atlaslib.synthetic.cohort import GENERATOR

ROOT = Path(__file__).resolve().parent.parent

RECIPE: dict[str, Value] = {
    # at most 0.25 GFLOP a slice: seconds a scan on a laptop
    "width": 8,
    "levels": 5,
    "window": True,
    "downsample": 2,
    "context_slices": 1,
    # every epoch segments all validation people: a few suffice to choose the weights
    "held_out": 0.03,
    "lesion_share": 0.65,
    "flip": True,
    "augment": True,
    "loss": "dice + cross entropy",
    "initial_prior": True,
    "learning_rate": 0.002,
    "decay": True,
    "batch_size": 8,
    "epochs": 12,
}
SMOKE: dict[str, Value] = {"width": 4, "levels": 3, "downsample": 4, "epochs": 1}
PEOPLE = {"full": (300, 100), "smoke": (5, 2)}  # to train on, to test on
SEEDS = (101, 102)  # of these people; the book's cohorts have seeds 0 and 1
CLASSES = (0.0, LARGE, 10.0, 100.0, float("inf"))  # mL


def recipe(profile: str) -> Recipe:
    changes = RECIPE | (SMOKE if profile == "smoke" else {})
    return dataclasses.replace(Recipe("residual_unet", profile=profile), **changes)  # type: ignore[arg-type]


def people(profile: str) -> list[Cohort]:
    """Two synthetic cohorts without anyone in common: to train on, and to test on."""
    folder = atlaslib.home() / "synthetic"
    return [
        atlaslib.make_cohort(folder / f"weights-{profile}-{seed}-{GENERATOR}", subjects, seed)
        for subjects, seed in zip(PEOPLE[profile], SEEDS, strict=True)
    ]


def ship(run: Run, unseen: Cohort, heads: Path | None, folder: Path) -> Path:
    """Publish a run with a card that tells its scores; returns the file of the weights."""
    name = run.recipe.model
    with tempfile.TemporaryDirectory() as draft:  # what is scored is what is shipped
        publish(run, {}, Path(draft))
        network = atlaslib.load_pretrained(name, Path(draft))
    card: dict[str, Any] = {
        "training data": {
            "what": "synthetic cohort: no person's data",
            "generator": GENERATOR,
            "seed": SEEDS[0],
            "people": sum(len(part) for part in run.provenance["split"].values()),
        },
        "training": {
            "passes": len(run.history),
            "minutes": round(run.provenance["seconds"] / 60),
            "processor": f"{run.provenance['device']}, {run.provenance['threads']} threads",
            "validation Dice after each pass": run.history.validation_dice.round(3).tolist(),
        },
        "unseen synthetic people": {
            "seed": SEEDS[1],
            "people": len(unseen.subjects),
            **synthetic_scores(with_ceiling(atlaslib.evaluate(network, unseen), unseen)),
        },
    }
    if heads is not None:
        card |= head_scores(score_heads({name: network}, heads))
    return publish(run, card, folder)


def with_ceiling(table: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Adds the Dice of the exact outline with the raters': about the best that can be reached."""
    ceilings = []
    for scan in cohort:
        exact = read_image(scan.t1.with_name(scan.subject + EXACT)).voxels > 0
        ceilings.append(dice(exact, read_scan(scan).mask))
    return table.assign(ceiling=ceilings)


def synthetic_scores(table: pd.DataFrame) -> dict[str, Any]:
    """Mean Dice per scan with its interval over people, and by the volume of the lesions."""
    row = atlaslib.summary({"": table}).iloc[0]
    classes = []
    for low, high in itertools.pairwise(CLASSES):
        part = table[(table.volume_ml >= low) & (table.volume_ml < high)]
        words = f"{low:g} to {high:g}" if high < CLASSES[-1] else f"at least {low:g}"
        means = {name: rounded(part[name].mean()) for name in ("dice", "ceiling")}
        classes.append({"lesion, mL": words, "scans": len(part), **means})
    large = table[table.volume_ml >= LARGE]
    interval = [rounded(row.low), rounded(row.high)]
    return {
        "dice": rounded(row.dice),
        "95 % interval": interval,
        f"dice of lesions of at least {LARGE:g} mL": rounded(large.dice.mean()),
        "as a share of the exact outline's Dice": rounded(large.dice.mean() / large.ceiling.mean()),
        "by lesion volume": classes,
    }


def head_scores(table: pd.DataFrame) -> dict[str, Any]:
    """The scores on real heads, one by one, and what is marked on them without a lesion."""
    heads = by_head(table)
    return {
        "real heads with painted lesions": [
            {key: rounded(row[key]) for key in row if key != "network"}
            for row in heads.to_dict("records")
        ],
        "healthy real heads": {
            "heads": int(heads.false_ml.notna().sum()),
            "false alarms, median mL": rounded(heads.false_ml.median()),
            "false alarms, worst mL": rounded(heads.false_ml.max()),
        },
    }


def rounded(value: Any) -> Any:
    """A number to three decimals, None if it is undefined; anything else as it is."""
    if not isinstance(value, float):
        return value
    return round(float(value), 3) if value == value else None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the weights that the library ships.")
    parser.add_argument("--profile", choices=list(PEOPLE), default="full")
    parser.add_argument("--heads", type=Path, metavar="FOLDER", help="as for benchmarks/heads.py")
    parser.add_argument("--out", type=Path, metavar="DIR")
    args = parser.parse_args(arguments)
    shipped = ROOT / "data" / "weights"
    out = args.out or (shipped if args.profile == "full" else atlaslib.home() / "weights-smoke")
    known, unseen = people(args.profile)
    run = atlaslib.train(recipe(args.profile), known)
    print(ship(run, unseen, args.heads, out))


if __name__ == "__main__":
    main()
