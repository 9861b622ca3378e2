"""The command line: ``atlaslib synth | unpack | check | register | train | predict`` and more."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import atlaslib
from atlaslib.files import atomic_write, check_writable, make_folder, one_line, user_path

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; invalid input gives a one-line error and exit code 1 (2 for wrong usage)."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if "paths" in options and not any(word.startswith("-") for word in unknown):
        options.paths += map(Path, unknown)  # argparse takes none that follow an option
        unknown = []
    if unknown:  # not shown for unpack, since one of them may be the key
        shown = "" if options.run is _unpack else f": {' '.join(unknown)}"
        parser.error(f"unrecognized arguments{shown}")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain undecodable bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.disable()  # other libraries' messages would appear between the lines
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            for name, value in vars(options).items():
                if isinstance(value, Path):
                    setattr(options, name, user_path(value))
                elif name == "paths":
                    options.paths = [user_path(path) for path in value]
            return options.run(options) or 0
        except KeyboardInterrupt:
            print("atlaslib: interrupted; run the same command again to resume", file=sys.stderr)
            return 130
        except Exception as error:
            if os.environ.get("ATLASLIB_DEBUG"):
                raise
            print(f"atlaslib: {_one_line(error, options)}", file=sys.stderr)
            return 1
        finally:
            logging.disable(logging.NOTSET)


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):
        print(f"atlaslib: warning: {message}", file=sys.stderr)


def _one_line(error: Exception, options: argparse.Namespace) -> str:
    """The error's text; for an unexpected kind of error, also the command's paths."""
    text = one_line(error)
    if isinstance(error, ValueError | OSError | RuntimeError):
        return text
    text = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {text}"
    values = [*vars(options).values(), *getattr(options, "paths", [])]
    paths = [str(value) for value in values if isinstance(value, Path)]
    return f"{', '.join(paths)}: {text}; ATLASLIB_DEBUG=1 shows where"


class _RefuseKey(argparse.Action):
    """Refuse a key that is given in the command itself."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error("the command must not contain the key; use --key-file or ATLAS_KEY")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("atlaslib", description="Stroke lesion segmentation on ATLAS.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    synth = commands.add_parser("synth", help="make a synthetic cohort laid out like ATLAS R1.1")
    synth.add_argument("folder", metavar="DIR", type=Path)
    synth.add_argument("--subjects", type=int, required=True, metavar="N")
    synth.add_argument("--seed", type=int, default=0, metavar="S")
    synth.set_defaults(run=_synth)

    unpack = commands.add_parser(
        "unpack",
        help="decrypt and extract an ATLAS archive",
        allow_abbrev=False,  # else --key SECRET means --key-file, and an error would show it
    )
    unpack.add_argument("archive", metavar="ARCHIVE", type=Path)
    unpack.add_argument("folder", metavar="DIR", type=Path)
    unpack.add_argument("--key-file", metavar="FILE", help="default: ATLAS_KEY, or ask for the key")
    # refused but not repeated in the error; the shell's history already contains it
    unpack.add_argument("--key", action=_RefuseKey, help=argparse.SUPPRESS)
    unpack.set_defaults(run=_unpack)

    check = commands.add_parser("check", help="list every fault in an ATLAS folder")
    check.add_argument("folder", metavar="DIR", type=Path)
    check.add_argument("--json", action="store_true", help="print one JSON object instead")
    check.set_defaults(run=_check)

    register = commands.add_parser(
        "register", help="align scans in native space with MNI space, as a new cohort; resumable"
    )
    register.add_argument("folder", metavar="DIR", type=Path)
    register.add_argument("out", metavar="OUT", type=Path)
    register.add_argument("--workers", type=_positive, metavar="N", help="default: all processors")
    register.add_argument(
        "--choose", default="", metavar="TEXT", help="of several T1w: part of the name, as run-2"
    )
    register.set_defaults(run=_register)

    train = commands.add_parser("train", help="train a model, or resume training it")
    train.add_argument("name", metavar="NAME", help="baseline, resnet, ...; a wrong name lists all")
    _add_profile(train)
    train.add_argument("--data", type=Path, required=True, metavar="DIR")
    train.add_argument("--out", type=Path, required=True, metavar="RUN")
    train.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes")
    train.add_argument("--dry-run", action="store_true", help="only estimate time and memory")
    train.add_argument("--tensorboard", action="store_true", help="also log to TensorBoard")
    train.set_defaults(run=_train)

    shown = commands.add_parser("recipe", help="show each setting: value, unit, range, purpose")
    shown.add_argument("name", metavar="NAME")
    _add_profile(shown)
    shown.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes")
    shown.set_defaults(run=_recipe)

    evaluate = commands.add_parser(
        "evaluate",
        help="compute Dice on scans that a run has not seen",
        usage="%(prog)s (RUN | --pretrained NAME) --data DIR --csv FILE [--whole-head]",
    )
    _add_network(evaluate)
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--csv", type=Path, required=True, metavar="FILE")
    _add_whole_head(evaluate)
    evaluate.set_defaults(run=_evaluate)

    score = commands.add_parser("score", help="compare masks that any program wrote with the truth")
    score.add_argument("masks", metavar="MASKS", type=Path)
    score.add_argument("--data", type=Path, required=True, metavar="DIR")
    score.add_argument("--csv", type=Path, required=True, metavar="FILE")
    score.set_defaults(run=_score)

    claims = commands.add_parser("claims", help="re-test every claim of the paper; resumable")
    _add_cohort(claims)
    claims.add_argument("--out", type=Path, metavar="DIR", help="where the tables are")
    claims.set_defaults(run=_claims)

    study = commands.add_parser("study", help="search the ResNet's units and last layer; resumable")
    _add_cohort(study)
    study.add_argument(
        "--trials", type=_positive, default=20, metavar="N", help="further trials to run"
    )
    study.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the table")
    study.set_defaults(run=_study)

    predict = commands.add_parser(
        "predict",
        help="predict the lesion mask of a T1 in MNI space",
        usage="%(prog)s (RUN | --pretrained NAME) T1.nii.gz MASK.nii.gz [--whole-head]",
    )
    _add_network(predict, "T1.nii.gz", "MASK.nii.gz")
    _add_whole_head(predict)
    predict.set_defaults(run=_predict)
    return parser


def _add_network(command: argparse.ArgumentParser, *others: str) -> None:
    """A RUN or --pretrained NAME, followed by other paths."""
    names = ["RUN", *others]
    command.add_argument("paths", metavar=" ".join(names), type=Path, nargs="*")
    command.add_argument(
        "--pretrained", metavar="NAME", help="a network shipped with the library, in place of RUN"
    )
    command.set_defaults(names=names)


def _add_whole_head(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--whole-head",
        action="store_true",
        help="also mark lesions outside the brain; default: up to 4 mm around the template's",
    )


def _add_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="quick", type=_profile, metavar="smoke|quick|paper")


def _profile(text: str) -> str:
    from atlaslib.recipes import PROFILES

    if text not in PROFILES:
        raise argparse.ArgumentTypeError(f"no profile {text!r}; choose from {', '.join(PROFILES)}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text!r}")
    return int(text)


def _add_cohort(command: argparse.ArgumentParser) -> None:
    _add_profile(command)
    command.add_argument(
        "--data", default="", metavar="DIR", help="ATLAS folder; default: the synthetic cohort"
    )


def _synth(options: argparse.Namespace) -> None:
    cohort = atlaslib.make_cohort(options.folder, options.subjects, options.seed)
    print(f"{len(cohort)} synthetic scans of {len(cohort.subjects)} subjects in {options.folder}")


def _unpack(options: argparse.Namespace) -> None:
    from atlaslib.data.archives import is_encrypted, read_key, unpack

    key = read_key(options.key_file) if is_encrypted(options.archive) else None
    folder = unpack(options.archive, options.folder, key)
    print(f"{folder}: unpacked; next, check it with: atlaslib check {folder}")


def _check(options: argparse.Namespace) -> int:
    """Exit code 0 if training can start, else 1."""
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


def _register(options: argparse.Namespace) -> int:
    """Exit code 0 if every scan is registered, else 1."""
    from atlaslib.data.standardise import register_cohort

    cohort = atlaslib.load_cohort(options.folder, options.choose)
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


def _train(options: argparse.Namespace) -> None:
    from atlaslib.recipes import parse_changes
    from atlaslib.training.distributed import leave_processes
    from atlaslib.training.loop import estimate_cost

    chosen = atlaslib.recipe(options.name, options.profile, **parse_changes(options.changes))
    cohort = atlaslib.load_cohort(options.data)
    if options.dry_run:
        print(estimate_cost(chosen, cohort).to_string())
        return
    run = atlaslib.train(chosen, cohort, out=options.out, tensorboard=options.tensorboard)
    leave_processes()
    best = run.history.validation_dice.max() if len(run.history) else float("nan")
    print(f"{run.folder}: finished, best validation Dice {best:.3f} ({run.provenance['source']})")


def _recipe(options: argparse.Namespace) -> None:
    from atlaslib.recipes import describe, parse_changes

    chosen = atlaslib.recipe(options.name, options.profile, **parse_changes(options.changes))
    print(describe(chosen).to_string(index=False))


def _network(options: argparse.Namespace) -> atlaslib.Run | atlaslib.Predictor:
    """The network that a command names; the paths that follow it are left in ``paths``."""
    others = options.names[1:]
    if len(options.paths) != len(others) + (options.pretrained is None):
        expected = " ".join(["either a RUN or --pretrained NAME", *others])
        raise ValueError(f"expected {expected}, got {len(options.paths)} paths")
    if options.pretrained is None:
        return atlaslib.load_run(options.paths.pop(0))
    return atlaslib.load_pretrained(options.pretrained)


def _evaluate(options: argparse.Namespace) -> None:
    network = _network(options)
    check_writable(options.csv)
    cohort, kind = atlaslib.load_cohort(options.data).labelled, ""
    if isinstance(network, atlaslib.Run):
        cohort, kind = network.unseen(cohort), "unseen "
    table = atlaslib.evaluate(network, cohort, brain_only=not options.whole_head)
    atomic_write(options.csv, lambda name: table.to_csv(name, index=False))
    row = atlaslib.summary({network.recipe.model: table}).iloc[0]
    print(
        f"{row.scans} scans of {row.subjects} {kind}subjects ({cohort.source}): Dice "
        f"{row.dice:.3f} (95 % interval {row.low:.3f} to {row.high:.3f}), pooled "
        f"{row.pooled_dice:.3f}; one row per scan in {options.csv}"
    )


def _score(options: argparse.Namespace) -> None:
    check_writable(options.csv)
    cohort = atlaslib.load_cohort(options.data)
    metrics = ("volume", "lesion_f1", "lesion_count")
    table = atlaslib.evaluate_masks(options.masks, cohort, metrics)
    atomic_write(options.csv, lambda name: table.to_csv(name, index=False))
    means = ", ".join(f"{name} {table[name].mean():.3f}" for name in ("dice", "lesion_f1"))
    print(
        f"{len(table)} scans ({cohort.source}), means: {means}; one row per scan in {options.csv}"
    )


def _claims(options: argparse.Namespace) -> None:
    from atlaslib.paper import protocol, sweep
    from atlaslib.paper.claims import verdicts

    folder = (options.out or atlaslib.home() / "results") / options.profile
    sweep.run_all(options.profile, folder, Path(options.data) if options.data else None)
    scans = sweep.read_table(folder, "scans")
    effects = protocol.effects(scans[scans.people.isin(["known", "fold"])])
    shown = ["claim", "verdict", "effect", "statement"]
    print(verdicts(effects, protocol.CLAIMS)[shown].to_string(index=False))
    print(f"tables in {folder}")


def _study(options: argparse.Namespace) -> None:
    from atlaslib.paper import study

    folder = options.out or atlaslib.home() / "studies"
    make_folder(folder)
    cohort = atlaslib.open_cohort(options.data, options.profile)
    table = study.trials_table(study.search(cohort, options.profile, options.trials))
    study.save(table, cohort, options.profile, folder)
    print(table.sort_values("dice", ascending=False).head(10).to_string(index=False))
    print(f"{len(table)} trials; table written to {folder}")


def _predict(options: argparse.Namespace) -> None:
    network = _network(options)
    t1, target = options.paths
    if not target.name.endswith((".nii", ".nii.gz")):
        raise atlaslib.DataError(f"{target}: the mask's name must end with .nii or .nii.gz")
    check_writable(target)
    mask = atlaslib.predict(network, t1, brain_only=not options.whole_head)
    content = mask.to_bytes()
    if target.suffix == ".gz":
        content = gzip.compress(content, 6)
    atomic_write(target, lambda name: Path(name).write_bytes(content))
    print(f"{target}: {int((mask.dataobj[:] > 0).sum()) / 1000:.1f} mL of lesion predicted")


if __name__ == "__main__":
    sys.exit(main())
