"""Run the chapters and render the book; called by ``make book``.

Papermill runs only the chapters whose text, library, data, profile or packages have changed since
their last run. Jupyter Book then renders the executed chapters; it executes nothing itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import joblib
import nbformat
import pages
from joblib.externals.loky.process_executor import TerminatedWorkerError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("smoke", "quick", "colab", "paper")

# A small network gains little from a second core, so chapters run beside each other.
AT_ONCE = 2
ALONE = ("book/01_dataset", "book/04_tuning")  # these use all cores; the second measures time
TRAIN = ("book/02_baseline", "book/03_resnet")  # one after the other: the second reads the first's
READ = ("book/05_results", "book/06_paper_and_code", "book/08_why", "book/intro")  # what TRAIN made


@dataclass(frozen=True)
class Outcome:
    """The outcome of a chapter's last execution, as stored in the manifest."""

    key: str  # changes with anything that the chapter depends on
    seconds: float
    error: str = ""  # "" if every cell ran; otherwise the cell and the message
    kept: bool = False  # True if nothing had changed and the chapter was not run again


# --- what has to run --------------------------------------------------------------------------


def shared_digest(root: Path, profile: str, data: str) -> str:
    """A digest of everything that all chapters depend on, besides their own text."""
    digest = hashlib.sha256(f"{profile}\n{data}\n{platform.python_version()}\n".encode())
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    digest.update("\n".join(packages).encode())
    library = (path for path in (root / "atlaslib").rglob("*") if path.suffix != ".pyc")
    sources = [*library, *(root / "data" / "results").rglob("*")]
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    # a folder of images is too large to hash: names, sizes and modification times must do
    for path in sorted(Path(data).rglob("*")) if data else ():
        stat = path.stat()
        digest.update(f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def chapter_key(root: Path, page: str, around: str) -> str:
    """Sixteen hexadecimal digits that change with anything that a chapter depends on."""
    text = (root / f"{page}.ipynb").read_bytes()
    return hashlib.sha256(text + around.encode()).hexdigest()[:16]


def checked_data(data: str) -> str:
    """The data folder as an absolute path, or exit with a one-line message; "" stays ""."""
    if not data:
        return ""
    from atlaslib import DataError, load_cohort

    try:
        cohort = load_cohort(data)
    except DataError as error:
        raise SystemExit(f"DATA: {error}") from None
    print(f"Data: {len(cohort)} scans of {len(cohort.subjects)} subjects in {cohort.root}")
    return str(cohort.root.resolve())


def check_notebooks(root: Path) -> None:
    """Exit with one line if a chapter is no notebook, such as one with marks of a conflict."""
    for page in pages.notebooks(root):
        try:
            nbformat.validate(nbformat.read(root / f"{page}.ipynb", as_version=4))
        except (OSError, ValueError, AttributeError, nbformat.ValidationError) as error:
            reason = " ".join(str(error).split())[:80]
            raise SystemExit(f"{page}.ipynb is not a valid notebook: {reason}") from None


# --- running ----------------------------------------------------------------------------------


class Progress(threading.Thread):
    """Prints how far a chapter is, every 30 seconds."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.cells = list[NotebookNode]()
        self.start_time, self.done = time.monotonic(), threading.Event()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start_time

    def run(self) -> None:
        while not self.done.wait(30):
            states = [cell.metadata.get("papermill", {}).get("status") for cell in self.cells]
            reached = min(states.count("completed") + 1, len(states))
            self.say(f"cell {reached} of {len(states)}")

    def close(self, verdict: str) -> None:
        self.done.set()
        self.join()
        self.say(verdict)

    def say(self, what: str) -> None:
        print(f"{self.name}  {what}, {clock(self.seconds)}", flush=True)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, such as ``3:07``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def execute(root: Path, page: str, parameters: dict[str, str], watch: Progress) -> str:
    """Run one chapter into ``_build/executed``; return its error, or "" if there was none."""
    import papermill

    register(watch)
    partial = pages.executed(root, page).with_suffix(".part.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / f"{page}.ipynb", partial)  # remains if no kernel starts
    error = ""
    try:
        # relative to the root, because papermill takes braces in a path for format fields
        papermill.execute_notebook(
            f"{page}.ipynb",
            partial.relative_to(root).as_posix(),
            parameters=parameters,
            engine_name="watched",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd="book",
            # silences the kernel's warning about unencrypted loopback sockets
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except papermill.PapermillExecutionError as failure:
        # counted from zero, but papermill has inserted its parameter cell before it
        place = f"cell {failure.cell_index} (In [{failure.exec_count}])"
        error = f"{place}: {failure.ename}: {failure.evalue}"
    except Exception as failure:  # such as a dead kernel
        error = f"stopped by {type(failure).__name__}: {failure}"
    error = error or "; ".join(pages.page_errors(nbformat.read(partial, as_version=4)))
    os.replace(partial, pages.executed(root, page))
    return error


def register(watch: Progress) -> None:
    """Register a papermill engine that gives the clock access to the notebook's cells."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Watched(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
            watch.cells = nb_man.nb.cells
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("watched", Watched)


def run_all(root: Path, profile: str, data: str) -> dict[str, Outcome]:
    """Run each chapter that is out of date; write the manifest after each group."""
    manifest = root / "_build" / "manifest.json"
    known = json.loads(manifest.read_text()) if manifest.is_file() else {}
    around, chapters = shared_digest(root, profile, data), pages.notebooks(root)
    parameters = {"profile": profile, "data_dir": data}
    outcomes, stale = dict[str, Outcome](), list[str]()
    for page in chapters:
        key, before = chapter_key(root, page, around), known.get(page, {})
        outcomes[page] = Outcome(key, before.get("seconds", 0.0), kept=True)
        if before.get("key") != key or before["error"] or not pages.executed(root, page).exists():
            stale.append(page)
    for jobs, groups in phases(stale):
        ended = [outcomes[page] for page in TRAIN if page in outcomes]
        if groups and groups[0][0] in READ and any(each.kept or each.error for each in ended):
            jobs = 1  # a training may be missing, and two chapters must not begin the same one
        work = joblib.Parallel(
            jobs, batch_size=1, pre_dispatch=jobs, return_as="generator_unordered"
        )
        for group in work(joblib.delayed(run_group)(root, group, parameters) for group in groups):
            for page, error, seconds in group:
                outcomes[page] = Outcome(outcomes[page].key, seconds, error)
                known[page] = asdict(outcomes[page])
            partial = manifest.with_suffix(".part")
            partial.write_text(json.dumps(known, indent=1))
            os.replace(partial, manifest)
    return outcomes


def phases(chapters: list[str]) -> list[tuple[int, list[list[str]]]]:
    """How many groups of chapters run at once, and the groups; a group's own run in their order."""
    import torch

    at_once = 1 if torch.cuda.is_available() else min(AT_ONCE, joblib.cpu_count())
    alone, train, read = ([page for page in chapters if page in of] for of in (ALONE, TRAIN, READ))
    others = [[page] for page in chapters if page not in (*alone, *train, *read)]
    return [
        (1, [[page] for page in alone]),
        (at_once, [train, *others] if train else others),
        (at_once, [[page] for page in read]),
    ]


def run_group(
    root: Path, group: list[str], parameters: dict[str, str]
) -> list[tuple[str, str, float]]:
    """Run chapters one after the other; their names, errors and durations in seconds."""
    os.chdir(root)  # a worker may have been elsewhere
    return [(page, *run(root, page, parameters)) for page in group]


def run(root: Path, page: str, parameters: dict[str, str]) -> tuple[str, float]:
    """Run one chapter and print its progress; return its error and duration in seconds."""
    watch, error = Progress(Path(page).name), "stopped"
    watch.start()
    try:
        error = execute(root, page, parameters, watch)
    finally:
        watch.close({"": "done", "stopped": "stopped"}.get(error, "FAILED"))
    for line in pages.printed_warnings(nbformat.read(pages.executed(root, page), as_version=4)):
        print(f"    warning in {page}.ipynb, {line}", flush=True)
    if error:
        print(f"    {page}.ipynb, {error}", flush=True)
    return error, round(watch.seconds, 1)


# --- the command ------------------------------------------------------------------------------


def build(root: Path, profile: str, data: str) -> int:
    """Run and render the chapters; print how long each took and where the book is."""
    os.chdir(root)
    check_notebooks(root)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # use this environment's kernel
    start_time = time.monotonic()
    print(f"Running the chapters at the {profile} profile", flush=True)
    outcomes = run_all(root, profile, data)
    notes = {}
    for page, outcome in outcomes.items():
        opens = "open_cohort(" in (root / f"{page}.ipynb").read_text(encoding="utf-8")
        notes[page] = (outcome.error, provenance(profile, data, opens))
    pages.stage(root, notes)
    print("Rendering the pages", flush=True)
    rendered = pages.render(root)
    report(outcomes, time.monotonic() - start_time)
    if not rendered:
        print("Rendering found problems: see the lines above.")
    print(f"The book: {root / '_build' / 'html' / 'index.html'}")
    return 0 if rendered and not any(outcome.error for outcome in outcomes.values()) else 1


def provenance(profile: str, data: str, opens_cohort: bool = True) -> str:
    """The sentence at the foot of every executed page; some show nothing but stored results."""
    versions = {d.metadata["Name"]: d.version for d in distributions()}
    source = "the data folder given by the reader" if data else "the synthetic cohort"
    made = f"Computed from {source} at the *{profile}* profile"
    if not opens_cohort:
        made = "Made from results that come with the book"
    return (
        f"{made} by atlaslib {versions.get('atlaslib', '(not installed)')} with torch "
        f"{versions.get('torch', '(not installed)')} and Python {platform.python_version()}."
    )


def report(outcomes: dict[str, Outcome], seconds: float) -> None:
    """Print a line for each chapter: its time, and whether it was kept or failed."""
    print("\nchapter                   min:s")
    for page, outcome in outcomes.items():
        state = "kept" if outcome.kept else ""
        state = f"FAILED {outcome.error}" if outcome.error else state
        print(f"{Path(page).name:24s} {clock(outcome.seconds):>6s}  {state}".rstrip())
    print(f"{'total, this run':24s} {clock(seconds):>6s}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--data", default="", help="a folder of real data; default: synthetic data")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the processes, too
    try:
        return build(ROOT, options.profile, checked_data(options.data))
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes with the unfinished chapters.")
        return 130
    except TerminatedWorkerError:
        print("A chapter's process was killed, perhaps for lack of memory; run the command again.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
