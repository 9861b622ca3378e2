"""The commands of the command line, one function for each: options in, an exit code or None out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import atlaslib
from atlaslib.files import atomic_write, check_writable, make_folder

if TYPE_CHECKING:
    import pandas as pd


def synth(options: argparse.Namespace) -> None:
    """Make a synthetic cohort."""
    cohort = atlaslib.make_cohort(options.folder, options.subjects, options.seed)
    print(f"{len(cohort)} synthetic scans of {len(cohort.subjects)} subjects in {options.folder}")


def unpack(options: argparse.Namespace) -> None:
    """Decrypt and extract an archive."""
    from atlaslib.data.archives import is_encrypted, read_key, unpack

    key = read_key(options.key_file) if is_encrypted(options.archive) else None
    folder = unpack(options.archive, options.folder, key)
    print(f"{folder}: unpacked; next, check it with: atlaslib check {folder}")


def check(options: argparse.Namespace) -> int:
    """List every fault; the exit code is 0 if training can start, else 1."""
    from atlaslib.data.check import check_folder

    found, faults = check_folder(options.folder)
    blocking = int(faults.blocks.sum())
    subjects = len({scan.subject for scan in found.scans})
    if options.json:
        counts = {"release": found.release, "scans": len(found.scans), "subjects": subjects}
        print(json.dumps({**counts, "faults": faults.to_dict("records")}, indent=1))
        return int(blocking > 0)
    width = max(map(len, faults.kind), default=0)
    for row in faults.itertuples():
        print(f"{'blocks ' if row.blocks else 'warning'}  {row.kind:{width}}  {row.message}")
    print(
        f"{found.release}: {len(found.scans)} scans of {subjects} subjects, {len(faults)} faults, "
        f"{blocking} of which block training"
    )
    return int(blocking > 0)


def register(options: argparse.Namespace) -> int:
    """Register a cohort; the exit code is 0 if every scan is registered, else 1."""
    from atlaslib.data.releases import survey
    from atlaslib.data.standardise import register_cohort

    cohort = atlaslib.load_cohort(options.folder, choose=options.choose)
    for fault in survey(options.folder, options.choose).faults:
        if fault.kind != "not downloaded":  # of which load_cohort warns
            print(f"atlaslib: {fault}", file=sys.stderr)
    table = register_cohort(cohort, options.out, options.workers)
    failed = table[table.problem != ""]
    for problem in failed.problem:
        print(f"atlaslib: {problem}", file=sys.stderr)
    text = f"{options.out}: {len(table) - len(failed)} of {len(table)} scans registered"
    if len(failed) < len(table):
        sheet = _contact_sheet(cohort, table, options.out)
        lowest, highest = table.similarity.min(), table.similarity.max()
        text += f", similarity {lowest:.2f} to {highest:.2f}; look at {sheet}"
    print(text)
    return int(len(failed) > 0)


def _contact_sheet(cohort: atlaslib.Cohort, table: pd.DataFrame, out: Path) -> Path:
    """Draw the registered scans, those with the lowest similarity first, at most 48."""
    from atlaslib.data.standardise import registered_t1
    from atlaslib.data.volumes import read_t1
    from atlaslib.figures.native import plot_contact_sheet, sheet_cuts

    cuts = {}
    for row in table.similarity.dropna().nsmallest(48).index:
        title = f"{cohort[row].name}  {table.similarity[row]:.2f}"
        cuts[title] = sheet_cuts(read_t1(registered_t1(cohort[row], out)).voxels)
    path = out / "contact_sheet.png"
    figure = plot_contact_sheet(cuts)
    atomic_write(path, lambda name: figure.savefig(name, format="png", dpi=150))
    return path


def _chosen(options: argparse.Namespace) -> atlaslib.Recipe:
    """The recipe that the command's options describe."""
    from atlaslib.recipes import parse_changes

    return atlaslib.recipe(options.name, options.profile, **parse_changes(options.changes))


def train(options: argparse.Namespace) -> None:
    """Train a model, or resume training it."""
    from atlaslib.training.distributed import leave_processes
    from atlaslib.training.loop import estimate_cost

    chosen = _chosen(options)
    cohort = atlaslib.load_cohort(options.data)
    if options.dry_run:
        print(estimate_cost(chosen, cohort).to_string())
        return
    run = atlaslib.train(chosen, cohort, out=options.out, tensorboard=options.tensorboard)
    leave_processes()
    best = run.history.validation_dice.max() if len(run.history) else float("nan")
    print(f"{run.folder}: finished, best validation Dice {best:.3f} ({run.provenance['source']})")


def recipe(options: argparse.Namespace) -> None:
    """Show each setting of a recipe."""
    from atlaslib.recipes import describe

    print(describe(_chosen(options)).to_string(index=False))


def _networks(
    options: argparse.Namespace, runs: list[Path]
) -> list[atlaslib.Run | atlaslib.Predictor]:
    if bool(runs) == (options.pretrained is not None):
        raise ValueError(f"expected either RUNs or --pretrained NAME, got {len(runs)} runs")
    if options.pretrained is None:
        return [atlaslib.load_run(run) for run in runs]
    return [atlaslib.load_pretrained(options.pretrained)]


def evaluate(options: argparse.Namespace) -> None:
    """Score a network on scans that it has not seen."""
    networks = _networks(options, options.paths)
    check_writable(options.csv)
    cohort, kind = atlaslib.load_cohort(options.data).labelled, ""
    for network in networks:
        if isinstance(network, atlaslib.Run):
            cohort, kind = network.unseen(cohort), "unseen "
    table = atlaslib.evaluate(networks, cohort, brain_only=not options.whole_head)
    atomic_write(options.csv, lambda name: table.to_csv(name, index=False))
    row = atlaslib.summary({"": table}).iloc[0]
    print(
        f"{row.scans} scans of {row.subjects} {kind}subjects ({cohort.source}): Dice "
        f"{row.dice:.3f} (95 % interval {row.low:.3f} to {row.high:.3f}), pooled "
        f"{row.pooled_dice:.3f}; one row per scan in {options.csv}"
    )


def score(options: argparse.Namespace) -> None:
    """Score masks that any program wrote."""
    check_writable(options.csv)
    cohort = atlaslib.load_cohort(options.data, unlabelled=True)
    metrics = ("volume", "lesion_f1", "lesion_count")
    table = atlaslib.evaluate_masks(options.masks, cohort, metrics)
    atomic_write(options.csv, lambda name: table.to_csv(name, index=False))
    means = ", ".join(f"{name} {table[name].mean():.3f}" for name in ("dice", "lesion_f1"))
    print(
        f"{len(table)} scans ({cohort.source}), means: {means}; one row per scan in {options.csv}"
    )


def crossval(options: argparse.Namespace) -> None:
    """Train and test a model on every fold."""
    from atlaslib.evaluation.intervals import folds
    from atlaslib.training.crossval import SCORES, cross_validate

    cohort = atlaslib.load_cohort(options.data).labelled
    table = cross_validate(_chosen(options), cohort, options.out, options.folds, options.scheduler)
    mean, low, high = folds(table.groupby("fold").dice.mean().to_numpy())
    print(
        f"{len(table)} scans of {table.subject.nunique()} subjects in {options.folds} folds "
        f"({cohort.source}): Dice {mean:.3f} (95 % interval {low:.3f} to {high:.3f}); one row per "
        f"scan in {options.out / SCORES}"
    )


def claims(options: argparse.Namespace) -> None:
    """Run the trainings that are missing, and print the verdicts."""
    from atlaslib.paper import judging, sweep
    from atlaslib.paper.claims import verdicts

    root = Path(options.data) if options.data else None
    # in a clone, home()/"results" is under version control; rows of real people must not get there
    base = options.out or atlaslib.home() / ("claims" if root else "results")
    folder = base / options.profile
    sweep.run_all(options.profile, folder, root, options.scheduler)
    scans = sweep.read_table(folder, "scans")
    effects = judging.effects(options.profile, scans)
    shown = ["claim", "verdict", "effect", "statement"]
    print(verdicts(effects, judging.CLAIMS)[shown].to_string(index=False))
    print(f"tables in {folder}")


def study(options: argparse.Namespace) -> None:
    """Run more trials of the search."""
    from atlaslib.paper import study

    folder = options.out or atlaslib.home() / "studies"
    make_folder(folder)
    cohort = atlaslib.open_cohort(options.data, options.profile)
    found = study.search(cohort, options.profile, options.trials, options.scheduler)
    table = study.trials_table(found)
    study.save(table, cohort, options.profile, folder)
    print(table.sort_values("dice", ascending=False).head(10).to_string(index=False))
    print(f"{len(table)} trials; table written to {folder}")


def predict(options: argparse.Namespace) -> int:
    """Segment scans; the exit code is 1 if there is no mask of some."""
    from atlaslib.evaluation.batch import TABLE, predict_files
    from atlaslib.evaluation.pretrained import model_card
    from atlaslib.figures.native import plot_prediction

    runs = [path for path in options.paths if (path / "recipe.json").is_file()]
    inputs = [path for path in options.paths if path not in runs]
    if not runs and options.pretrained is None:
        runs = inputs[:1]  # an error will say why it is no run
    networks, csv = _networks(options, runs), options.csv or options.out / TABLE
    table = predict_files(
        networks, inputs, options.out, csv, not options.whole_head, plot_prediction
    )
    for error, doubt in zip(table.error, table.warnings, strict=True):
        if error or doubt:
            print(f"atlaslib: {error or 'warning: ' + doubt}", file=sys.stderr)
    failed = int((table.error != "").sum())
    print(
        f"{len(table) - failed} of {len(table)} scans have masks, with "
        f"{table.predicted_ml.sum():.1f} mL of lesion in all; one row per scan in {csv}"
    )
    if options.pretrained:
        card = model_card(options.pretrained)
        print(f"{options.pretrained}: not for {card['must not be used for']}")
    return int(failed > 0)
