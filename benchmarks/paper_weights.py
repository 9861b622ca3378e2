"""The paper's two networks as the library ships them, beside the one of ``weights.py``.

    python benchmarks/paper_weights.py [--profile quick|smoke] [--out DIR]

They are the protocol's trainings of baseline and ResNet on its finer grid, of seed 0: read from
ATLASLIB_HOME, or trained. As they are shipped, in half precision, they are scored on the protocol's
test people by known and by unseen scanners. Weights and cards are written to ``data/weights``; at
the smoke profile, to a folder of their own in the library's home.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import atlaslib
from atlaslib import Run
from atlaslib.evaluation.pretrained import publish
from atlaslib.files import shipped
from atlaslib.paper import protocol, sweep
from atlaslib.paper.protocol import MAIN_PEOPLE, PLANS, TEST_PEOPLE
from atlaslib.synthetic.cohort import GENERATOR

ARMS = ("baseline, fine", "resnet, fine")
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the paper's networks that are shipped.")
    parser.add_argument("--profile", choices=("quick", "smoke"), default="quick")
    parser.add_argument("--out", type=Path, metavar="DIR")
    args = parser.parse_args(arguments)
    small = args.profile == "smoke"
    out = args.out or (atlaslib.home() / "weights-smoke" if small else shipped("weights"))
    # the pilot's choice of rates and length
    choice = protocol.choose("quick", sweep.read_table(shipped("results") / "quick", "history"))
    if small:
        choice = choice._replace(passes=1)
    for job in protocol.jobs(args.profile, choice):
        if job.arm in ARMS and job.seed == SEED:
            own = sweep.people(args.profile, MAIN_PEOPLE + SEED, PLANS[args.profile].people)
            run = atlaslib.train(job.recipe, own, progress=False)
            print(ship(run, args.profile, out), flush=True)
    return 0


def ship(run: Run, profile: str, folder: Path) -> Path:
    """Publish a run with a card that tells its scores; returns the file of the weights."""
    name = run.recipe.model
    with tempfile.TemporaryDirectory() as draft:  # what is scored is what is shipped
        publish(run, {}, Path(draft))
        network = atlaslib.load_pretrained(name, Path(draft))
    scores: dict[str, Any] = {}
    for scanners in ("known", "unseen"):
        test = sweep.people(profile, TEST_PEOPLE, PLANS[profile].test_people, scanners == "unseen")
        row = atlaslib.summary({"": atlaslib.evaluate(network, test, progress=False)}).iloc[0]
        mean, low, high = (round(float(row[key]), 3) for key in ("dice", "low", "high"))
        scores[f"{scanners} scanners"] = {"dice": mean, "95 % interval": [low, high]}
    card = {
        "training data": {
            "what": "synthetic cohort: no person's data",
            "generator": GENERATOR,
            "seed": MAIN_PEOPLE + SEED,
        },
        "training": {
            "passes": len(run.history),
            "protocol": protocol.digest(),
            "processor": f"{run.provenance['device']}, {run.provenance['threads']} threads",
        },
        "unseen synthetic people": {
            "seed": TEST_PEOPLE,
            "people": PLANS[profile].test_people,
            **scores,
        },
    }
    return publish(run, card, folder)


if __name__ == "__main__":
    raise SystemExit(main())
