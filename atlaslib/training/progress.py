"""Progress of a run, shown in a terminal, a notebook or a log file."""

from __future__ import annotations

import sys

from tqdm.auto import tqdm

from atlaslib.recipes import Recipe
from atlaslib.training.state import TrainingState

_LOG_SECONDS = 60  # between lines of progress in a log file


class ProgressBar:
    """One bar for the whole run: epoch, loss, validation Dice, slices per second, time left."""

    def __init__(
        self, recipe: Recipe, state: TrainingState, progress: bool, name: str = ""
    ) -> None:
        self.recipe = recipe
        self.name = name or recipe.model  # of the network
        # in a log file, which is neither a terminal nor a notebook, each refresh adds a line
        log_file = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        self.bar = tqdm(
            total=recipe.epochs * state.steps * recipe.batch_size,
            initial=(len(state.history) * state.steps + state.step) * recipe.batch_size,
            unit="slice",
            disable=not progress,
            mininterval=_LOG_SECONDS if log_file else 0.5,
            maxinterval=_LOG_SECONDS if log_file else 10,
        )
        self.dice = state.history[-1]["validation_dice"] if state.history else float("nan")

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, state: TrainingState) -> None:
        if self.bar.disable:
            return
        epoch = f"{self.name} {len(state.history) + 1}/{self.recipe.epochs}"
        self.bar.set_description(epoch, refresh=False)
        self.bar.set_postfix_str(f"loss {state.loss:.4f}, Dice {self.dice:.3f}", refresh=False)
        self.bar.update(self.recipe.batch_size)

    def end_epoch(self, row: dict[str, float]) -> None:
        self.dice = row["validation_dice"]
        if not self.bar.disable:
            tqdm.write(
                f"{self.name} {row['epoch']:.0f}/{self.recipe.epochs}: loss "
                f"{row['loss']:.4f}, validation loss {row['validation_loss']:.4f}, Dice "
                f"{row['validation_dice']:.3f}, {row['seconds']:.0f} s",
                file=sys.stdout,
            )
