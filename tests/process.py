"""A run in a process of its own, which a test may kill."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import atlaslib
from atlaslib.training import state

# one server imports torch, and each process is a copy of it
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["atlaslib.training.loop"])


def start(recipe: atlaslib.Recipe, cohort: atlaslib.Cohort, folder: Path) -> BaseProcess:
    """Start a run that writes a checkpoint after each step."""
    process = PROCESSES.Process(target=_train, args=(recipe, cohort, folder))
    process.start()
    return process


def _train(recipe: atlaslib.Recipe, cohort: atlaslib.Cohort, folder: Path) -> None:
    # one thread: a second does not speed up so small a network, and test processes share the cores
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    state.CHECKPOINT_SECONDS = 0
    atlaslib.train(recipe, cohort, out=folder, progress=False)
