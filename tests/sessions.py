"""A training session and its state, in one process and without a progress bar."""

from __future__ import annotations

from pathlib import Path

from atlaslib import Cohort, Recipe
from atlaslib.training.custom import Custom
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingSession


def new_session(chosen: Recipe, cohort: Cohort, custom: Custom | None = None) -> TrainingSession:
    return TrainingSession(chosen, cohort, custom or Custom(), DistributedContext(), False)


def new_state(folder: Path, session: TrainingSession) -> TrainingState:
    return TrainingState(folder, session, DistributedContext())
