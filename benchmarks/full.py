"""The book's models at full scale: train, test on unseen subjects, save what the book shows.

    python benchmarks/full.py [--profile paper] [--data FOLDER] [--results DIR] [--weights DIR]

Without ``--data``, a synthetic cohort of 220 subjects is made first. Finished runs are reused and
interrupted ones resume. The paper profile needs a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import atlaslib
from atlaslib.evaluation.pretrained import publish
from atlaslib.files import atomic_write

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
        if name == "baseline" and cohort.synthetic:  # weights trained on people's data stay private
            publish(run, {"test": row.iloc[0].to_dict()}, args.weights)
        known = {
            key: run.provenance[key] for key in ("source", "profile", "device", "cohort", "engine")
        }
        rows.append(row.assign(minutes=run.provenance["seconds"] / 60, **known))
    table = pd.concat(rows, ignore_index=True)
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"{args.profile}.csv"
    atomic_write(path, lambda name: table.to_csv(name, index=False))
    print(table.to_string())


if __name__ == "__main__":
    main()
