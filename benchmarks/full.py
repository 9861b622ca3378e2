"""The book's models at full scale: train, test on unseen subjects, keep what the book shows.

    python benchmarks/full.py [--profile paper] [--data FOLDER] [--results DIR] [--weights DIR]

Without ``--data`` the 220 subjects of the synthetic cohort are made first. Runs are found again,
and go on where they were cut off. Needs a GPU at the paper's profile.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import atlaslib
from atlaslib.cohort import write_aside
from atlaslib.pretrained import publish

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="The book's models at full scale.")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--data", default="", help="a folder of ATLAS")
    parser.add_argument("--results", type=Path, default=ROOT / "data" / "results")
    parser.add_argument("--weights", type=Path, default=ROOT / "data" / "weights")
    args = parser.parse_args()
    cohort = atlaslib.open_cohort(args.data, args.profile)
    rows = []
    for name in ("baseline", "resnet", "zero"):
        run = atlaslib.train(atlaslib.recipe(name, args.profile), cohort)
        row = atlaslib.summary({name: atlaslib.evaluate(run, run.unseen(cohort))})
        if name == "baseline" and cohort.synthetic:  # of people's data, not even weights
            publish(run, row, args.weights)
        known = {
            key: run.provenance[key] for key in ("source", "profile", "device", "cohort", "code")
        }
        rows.append(row.assign(minutes=run.provenance["seconds"] / 60, **known))
    table = pd.concat(rows, ignore_index=True)
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"{args.profile}.csv"
    write_aside(path, lambda name: table.to_csv(name, index=False))
    print(table.to_string())


if __name__ == "__main__":
    main()
