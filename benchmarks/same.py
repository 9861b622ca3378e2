"""Show that this version of the code computes what an older one did, bit for bit.

    atlaslib claims --profile quick --seeds 1 --out FOLDER  # by the older version, in a clone of it
    atlaslib claims --profile quick --seeds 1 --out FOLDER  # by this one
    python benchmarks/same.py [--profile quick]

The older version is the one that the tables in ``data/results/claims`` come from. Both have to run
on the same machine (processors round differently) with the same ``ATLASLIB_HOME``. Every arm is
trained with one seed by each; weights, epochs and scores are compared. If nothing differs, this is
noted in ``data/results/same.json``, and the tables count as those of this version, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

import atlaslib
from atlaslib.cohort import write_aside
from atlaslib.experiments import RESULTS, jobs, same_as
from atlaslib.runs import code_fingerprint
from data import machine

SEED = 0


def finished(codes: set[str], cohort: str) -> dict[str, Path]:
    """The folders of runs by such code on this cohort, by their recipe."""
    found = {}
    for path in (atlaslib.home() / "runs").glob("*/provenance.json"):
        about = json.loads(path.read_text())
        if about["code"] in codes and about["cohort"] == cohort:
            found[_key(json.loads((path.parent / "recipe.json").read_text()))] = path.parent
    return found


def _key(recipe: dict[str, object]) -> str:
    return json.dumps(recipe, sort_keys=True)


def differences(old: Path, new: Path) -> list[str]:
    """Names of the files that differ; seconds do not count."""
    names = {path.name for folder in (old, new) for path in folder.glob("*.csv")}
    return [
        name
        for name in sorted({*names, "weights.safetensors"})
        if not all((folder / name).is_file() for folder in (old, new))
        or _content(old / name) != _content(new / name)
    ]


def _content(path: Path) -> object:
    if path.name != "history.csv":
        return path.read_bytes()
    return pd.read_csv(path, dtype=str).drop(columns="seconds").to_csv()


def main() -> None:
    parser = argparse.ArgumentParser(description="Does this version compute what an older one did?")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    cohort = atlaslib.open_cohort(profile=args.profile).labelled.fingerprint()
    tables = args.results / "claims" / f"{args.profile}.json"
    note = args.results / "same.json"
    made_by = json.loads(tables.read_text())["code"]
    old = finished(same_as(made_by, args.profile, note) - {code_fingerprint()}, cohort)
    new = finished({code_fingerprint()}, cohort)
    listed = {job.arm: _key(dataclasses.asdict(job.recipe)) for job in jobs(args.profile, SEED + 1)}
    faults = []
    for arm, key in listed.items():
        lacking = [which for which, runs in (("older", old), ("new", new)) if key not in runs]
        if lacking:
            faults.append(f"{arm}: no run by the {' and the '.join(lacking)} version")
        elif names := differences(old[key], new[key]):
            faults.append(f"{arm}: other {', '.join(names)}")
    if faults:
        sys.exit("\n".join(faults))
    record = {
        "codes": [made_by, code_fingerprint()],
        "arms": len(listed),
        "seed": SEED,
        "profile": args.profile,
        **{name: machine()[name] for name in ("cpu", "python", "torch", "numpy")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps([*json.loads(note.read_text()), record], indent=1) + "\n"
    write_aside(note, lambda name: Path(name).write_text(text))
    print(f"{len(listed)} arms: the same weights, epochs and scores, bit for bit; noted in {note}")


if __name__ == "__main__":
    main()
