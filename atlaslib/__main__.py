"""The command line: ``atlaslib synth | unpack | check | register | train | predict`` and more."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from atlaslib import commands
from atlaslib.files import one_line, user_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; invalid input gives a one-line error and exit code 1 (2 for wrong usage)."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if "paths" in options and not any(word.startswith("-") for word in unknown):
        options.paths += map(Path, unknown)  # argparse takes none that follow an option
        unknown = []
    if unknown:  # not shown for unpack, since one of them may be the key
        shown = "" if options.run is commands.unpack else f": {' '.join(unknown)}"
        parser.error(f"unrecognized arguments{shown}")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain undecodable bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.disable()  # other libraries' messages would appear between the lines
    with warnings.catch_warnings(), _terminated_as_interrupted():
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


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM interrupt a command as Ctrl-C does, so that it ends its workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    synth = verbs.add_parser("synth", help="make a synthetic cohort laid out like ATLAS R1.1")
    synth.add_argument("folder", metavar="DIR", type=Path)
    synth.add_argument("--subjects", type=int, required=True, metavar="N")
    synth.add_argument("--seed", type=int, default=0, metavar="S")
    synth.set_defaults(run=commands.synth)

    unpack = verbs.add_parser(
        "unpack",
        help="decrypt and extract an ATLAS archive",
        allow_abbrev=False,  # else --key SECRET means --key-file, and an error would show it
    )
    unpack.add_argument("archive", metavar="ARCHIVE", type=Path)
    unpack.add_argument("folder", metavar="DIR", type=Path)
    unpack.add_argument("--key-file", metavar="FILE", help="default: ATLAS_KEY, or ask for the key")
    # refused but not repeated in the error; the shell's history already contains it
    unpack.add_argument("--key", action=_RefuseKey, help=argparse.SUPPRESS)
    unpack.set_defaults(run=commands.unpack)

    check = verbs.add_parser("check", help="list every fault in an ATLAS folder")
    check.add_argument("folder", metavar="DIR", type=Path)
    check.add_argument("--json", action="store_true", help="print one JSON object instead")
    check.set_defaults(run=commands.check)

    register = verbs.add_parser(
        "register", help="align scans in native space with MNI space, as a new cohort; resumable"
    )
    register.add_argument("folder", metavar="DIR", type=Path)
    register.add_argument("out", metavar="OUT", type=Path)
    register.add_argument("--workers", type=_positive, metavar="N", help="default: all processors")
    register.add_argument(
        "--choose",
        default="",
        metavar="TEXT",
        help="of several T1w images of a session: part of its name, such as run-2",
    )
    register.set_defaults(run=commands.register)

    train = verbs.add_parser("train", help="train a model, or resume training it")
    _add_training(train)
    train.add_argument("--out", type=Path, required=True, metavar="RUN")
    train.add_argument("--dry-run", action="store_true", help="only estimate time and memory")
    train.add_argument("--tensorboard", action="store_true", help="also log to TensorBoard")
    train.set_defaults(run=commands.train)

    shown = verbs.add_parser("recipe", help="show each setting: value, unit, range, purpose")
    _add_recipe(shown)
    shown.set_defaults(run=commands.recipe)

    evaluate = verbs.add_parser(
        "evaluate",
        help="compute Dice on scans that a run has not seen",
        usage="%(prog)s (RUN ... | --pretrained NAME) --data DIR --csv FILE [--whole-head]",
    )
    _add_networks(evaluate, "RUN")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--csv", type=Path, required=True, metavar="FILE")
    _add_whole_head(evaluate)
    evaluate.set_defaults(run=commands.evaluate)

    score = verbs.add_parser("score", help="score masks of any program against the true ones")
    score.add_argument("masks", metavar="MASKS", type=Path)
    score.add_argument("--data", type=Path, required=True, metavar="DIR")
    score.add_argument("--csv", type=Path, required=True, metavar="FILE")
    score.set_defaults(run=commands.score)

    crossval = verbs.add_parser(
        "crossval", help="train and test a model on every fold of a cohort; resumable"
    )
    _add_training(crossval)
    crossval.add_argument("--out", type=Path, required=True, metavar="DIR")
    crossval.add_argument("--folds", type=_positive, default=5, metavar="K")
    _add_scheduler(crossval)
    crossval.set_defaults(run=commands.crossval)

    claims = verbs.add_parser(
        "claims", help="run the protocol's trainings and judge the claims; resumable"
    )
    _add_cohort(claims)
    claims.add_argument("--out", type=Path, metavar="DIR", help="tables are written to DIR/PROFILE")
    _add_scheduler(claims)
    claims.set_defaults(run=commands.claims)

    study = verbs.add_parser("study", help="search the ResNet's units and last layer; resumable")
    _add_cohort(study)
    study.add_argument(
        "--trials", type=_positive, default=20, metavar="N", help="additional trials"
    )
    study.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the table")
    _add_scheduler(study)
    study.set_defaults(run=commands.study)

    predict = verbs.add_parser(
        "predict",
        help="write lesion masks of T1s, or folders of them, and a table; resumable",
        usage="%(prog)s (RUN ... | --pretrained NAME) INPUT ... --out DIR [options]",
    )
    _add_networks(predict, "RUN|INPUT")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the masks")
    predict.add_argument("--csv", type=Path, metavar="FILE", help="default: DIR/volumes.csv")
    _add_whole_head(predict)
    predict.set_defaults(run=commands.predict)
    return parser


def _add_networks(command: argparse.ArgumentParser, paths: str) -> None:
    """Runs, of which several are an ensemble, or --pretrained NAME."""
    command.add_argument(
        "paths", metavar=paths, type=Path, nargs="*", help="several runs are an ensemble"
    )
    command.add_argument(
        "--pretrained", metavar="NAME", help="a network shipped with the library, in place of RUN"
    )


def _add_whole_head(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--whole-head",
        action="store_true",
        help="mark lesions anywhere; default: within 4 mm of the template's brain",
    )


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "name", metavar="NAME", help="baseline, resnet, ...; a wrong name lists all"
    )
    _add_profile(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="change a field of the recipe; may be repeated",
    )


def _add_training(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--data", type=Path, required=True, metavar="DIR")


def _add_scheduler(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="run on a Dask cluster, not on this machine",
    )


def _add_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile", default="quick", type=_profile, metavar="smoke|quick|colab|paper"
    )


def _profile(text: str) -> str:
    from atlaslib.profiles import PROFILES

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


if __name__ == "__main__":
    sys.exit(main())
