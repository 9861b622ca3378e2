"""The state of a run: saved in checkpoints, and written as results at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from atlaslib.files import DataError, atomic_write, checked, write_json
from atlaslib.networks import copied_weights, new_network, signature
from atlaslib.runs import (
    COLUMNS,
    check_weights,
    experiment_key,
    seal,
    write_identity,
)
from atlaslib.training.batches import steps_per_epoch
from atlaslib.training.checkpoints import (
    Checkpoint,
    delete_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.step import TrainingError, TrainingSession

CHECKPOINT_SECONDS = 120  # between checkpoints within an epoch; each epoch also ends with one
_CHECK_EVERY = 10  # steps between checks of the loss: reading it in every step would stall the GPU


class TrainingState:
    """The state of a run: progress, history, and the best weights so far."""

    def __init__(self, folder: Path, session: TrainingSession, context: DistributedContext) -> None:
        self.folder, self.session, self.context = folder, session, context
        custom = session.custom.describe()
        self.experiment = experiment_key(session.recipe, session.cohort, custom)
        self.steps = steps_per_epoch(session.order(0), session.recipe)
        self.history: list[dict[str, float]] = []
        self.best = (-1.0, 0.0)  # validation Dice, minus validation loss
        self.weights = copied_weights(self.session.model)
        self.step = 0  # steps taken in this epoch
        self.total = torch.zeros((), device=session.device)  # sum of this epoch's losses
        self.bad_step = torch.tensor(-1.0, device=session.device)  # first non-finite loss
        pinned = session.device.type == "cuda"
        self._on_host = torch.tensor([float("nan"), -1.0], pin_memory=pinned)  # mean loss, bad step
        self.loss = float("nan")  # the epoch's mean so far, at the last check
        self._scaler: dict[str, Any] = {}  # of an earlier device: it may have skipped steps
        self._earlier = 0.0  # seconds that this epoch took before the run was resumed
        self._clock = self._saved = time.perf_counter()

    def record_step(self, loss: torch.Tensor) -> None:
        """Count a step and add up its loss, without waiting for a GPU."""
        self.step += 1
        self.total += loss
        is_first = (self.bad_step < 0) & ~torch.isfinite(loss)
        self.bad_step = torch.where(is_first, self.step, self.bad_step)
        if self.session.device.type == "cpu":
            self.check_finite(self.total / self.step, self.bad_step)
        elif self.step % _CHECK_EVERY == 0:
            self.check_finite(*self._on_host)  # copied at the previous check
            now = torch.stack([self.total / self.step, self.bad_step])
            self._on_host.copy_(now, non_blocking=True)

    def check_finite(self, loss: torch.Tensor, bad_step: torch.Tensor) -> None:
        self.loss = float(loss)
        if float(bad_step) >= 0:
            raise TrainingError(
                f"{self.folder}: the loss of step {int(bad_step)} of epoch {len(self.history) + 1} "
                "is not finite; the last checkpoint is kept. Try a learning rate below "
                f"{self.session.recipe.learning_rate}"
            )

    def elapsed(self) -> float:
        """Seconds that this epoch has taken so far."""
        return self._earlier + time.perf_counter() - self._clock

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due; never with several processes, which would have to agree."""
        return self.context.size == 1 and time.perf_counter() - self._saved > CHECKPOINT_SECONDS

    def save(self) -> None:
        """Write a checkpoint; raises an error instead if a loss of this epoch is not finite."""
        self.check_finite(self.total / max(self.step, 1), self.bad_step)
        random = self.context.gather([_random_states()])
        if self.context.is_main:
            if not self.folder.is_dir():
                raise DataError(f"{self.folder}: was deleted during training", "missing")
            self._write_identity()
            content = {
                "experiment": self.experiment,
                "model": self.session.model.state_dict(),
                "optimiser": {"state": self.session.optimiser.state_dict()["state"]},
                "scaler": self.session.scaler.state_dict() or self._scaler,
                "random": random,  # one entry per process
                "history": self.history,
                "weights": self.weights,
                "step": self.step,
                "total": self.total,
                "seconds": self.elapsed(),
            }
            save_checkpoint(self.folder, content)
        self._saved = time.perf_counter()

    def resume(self) -> None:
        """Resume from the newest intact checkpoint, if there is one."""
        content = load_checkpoint(self.folder, self.session.device, self._checked)
        if content is not None:
            self._restore(content)
            if self.context.is_main:
                self.session.custom.warn_if_unknown(self.folder, "resumed")

    def _write_identity(self) -> None:
        """Write again what may have been deleted or edited, and is needed to resume the run."""
        write_identity(self.folder, self.session.recipe, self.experiment)

    def _restore(self, content: Any) -> None:
        session = self.session
        session.model.load_state_dict(content["model"])
        # the learning rate and other settings are those of the recipe
        session.optimiser.load_state_dict(session.optimiser.state_dict() | content["optimiser"])
        for parameter, moments in session.optimiser.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # in the parameter's layout, as Adam needs them
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        self._scaler = dict(content["scaler"])
        if content["scaler"] and session.scaler.is_enabled():  # the device may have changed
            session.scaler.load_state_dict(content["scaler"])
        for device, state in self._random(content).items():
            if device == "cuda":
                torch.cuda.set_rng_state(state)
            else:
                torch.set_rng_state(state)
        self.history = content["history"]
        self.best = max(map(_score, self.history), default=self.best)
        self.weights = {name: value.cpu() for name, value in content["weights"].items()}
        self.step = content["step"]
        self.total = torch.full_like(self.total, float(content["total"]))
        self._earlier = content["seconds"]

    def _random(self, content: Checkpoint) -> dict[str, torch.Tensor]:
        """This process's random states; none if the number of processes was another.

        Each process then keeps the state that its seed has given it.
        """
        if len(content["random"]) != self.context.size:
            return {}
        states = content["random"][self.context.rank]
        names = ["cpu", "cuda"] if self.session.device.type == "cuda" else ["cpu"]
        return {name: state.cpu() for name, state in zip(names, states, strict=False)}

    def _checked(self, loaded: dict[str, Any]) -> Checkpoint:
        """A checkpoint's content; raises an error if it cannot be one of this run."""
        session, content = self.session, checked(Checkpoint, loaded)
        if content["experiment"] != self.experiment:
            raise ValueError("it is of another run")
        for name in ("model", "weights"):
            check_weights(content[name], session.model)
        moments = content["optimiser"]["state"]
        shapes = {place: p.shape for place, p in enumerate(session.model.parameters())}
        for place, found in moments.items():
            if {shapes.get(place)} != {found["exp_avg"].shape, found["exp_avg_sq"].shape}:
                raise ValueError("its optimiser is that of another network")
        epochs, step = content["history"], content["step"]
        if [row["epoch"] for row in epochs] != list(range(1, len(epochs) + 1)):
            raise ValueError("its history is not one row for each epoch")
        if len(epochs) + (step > 0) > session.recipe.epochs or step > self.steps:
            raise ValueError("it has more epochs or steps than this run")
        steps = len(epochs) * self.steps + step
        taken = max((int(found["step"]) for found in moments.values()), default=0)
        # a gradient scaler may skip steps
        if taken > steps or (taken < steps and not content["scaler"]):
            raise ValueError(f"its optimiser has taken {taken} steps, expected {steps}")
        for device, state in self._random(content).items():
            torch.Generator(device).set_state(state)
        return content

    def end_epoch(self, row: dict[str, float]) -> None:
        """Keep the weights if they are the best so far; write a checkpoint and the history."""
        self.check_finite(self.total / max(self.step, 1), self.bad_step)
        self.history.append(row)
        if _score(row) > self.best:
            self.best, self.weights = _score(row), copied_weights(self.session.model)
        self.step, self.total, self._earlier = 0, torch.zeros_like(self.total), 0.0
        self._clock = time.perf_counter()
        self.save()
        if self.context.is_main:
            self._write_history()

    def check_steps(self, count: int) -> None:
        """Refuse an epoch with another number of batches, which a sampler may have chosen."""
        if count != self.steps:
            raise TrainingError(
                f"{self.folder}: sampler: epoch {len(self.history) + 1} has {count} batches, the "
                f"first has {self.steps}; choose as many slices in each"
            )

    def ended(self) -> str:
        """Why no further epoch is trained: "epochs", "patience" or "max_minutes"; else ""."""
        recipe, done = self.session.recipe, len(self.history)
        if done >= recipe.epochs:
            return "epochs"
        if not done:
            return ""
        scores = [_score(row) for row in self.history]
        if recipe.patience is not None and done - 1 - scores.index(max(scores)) >= recipe.patience:
            return "patience"
        seconds = sum(row["seconds"] for row in self.history)
        limit = self.session.custom.max_minutes
        # another epoch would take as long as the mean of those before it
        over = limit is not None and seconds * (done + 1) / done > 60 * limit
        return "max_minutes" if any(self.context.gather([over])) else ""

    def _write_history(self) -> None:
        table = pd.DataFrame(self.history, columns=list(COLUMNS))
        atomic_write(self.folder / "history.csv", lambda name: table.to_csv(name, index=False))

    def finish(self, provenance: dict[str, Any]) -> None:
        """Write the results and seal them, which marks the run as finished."""
        self._write_identity()
        provenance["seconds"] = sum(row["seconds"] for row in self.history)
        weights, session = self.weights, self.session
        network = new_network(session.recipe, session.custom.model)
        check_weights(weights, network)
        network.load_state_dict(weights)
        provenance["signature"] = signature(network, session.recipe)
        atomic_write(self.folder / "weights.safetensors", lambda name: save_file(weights, name))
        self._write_history()
        write_json(self.folder / "provenance.json", provenance)
        seal(self.folder)
        delete_checkpoints(self.folder)


def _score(row: dict[str, float]) -> tuple[float, float]:
    """Validation Dice; ties go to the lower loss, which falls before any voxel is segmented."""
    dice = row["validation_dice"]
    return (dice if np.isfinite(dice) else 0.0, -row["validation_loss"])


def _random_states() -> list[torch.Tensor]:
    """States of the random number generators of the CPU and, if there is one, the GPU."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *gpu]
