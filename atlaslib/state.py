"""Where a run stands: what checkpoints hold, and what is left at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from atlaslib.checkpoints import drop_checkpoints, load_checkpoint, save_checkpoint
from atlaslib.cohort import write_aside
from atlaslib.runs import write_json
from atlaslib.steps import Trainee, TrainingError
from atlaslib.world import World

CHECKPOINT_SECONDS = 120  # between checkpoints within an epoch; each epoch ends with one, too
_LOOK = 10  # steps between looks at the loss: reading it in each would make the GPU wait


class State:
    """Where a run stands: what checkpoints hold, and what is left when it is finished."""

    def __init__(self, folder: Path, trainee: Trainee, world: World) -> None:
        self.folder, self.trainee, self.world = folder, trainee, world
        self.history: list[dict[str, float]] = []
        self.best = (-1.0, 0.0)  # validation Dice, minus validation loss
        self.weights = self._copy()
        self.step = 0  # of the epoch, taken
        self.total = torch.zeros((), device=trainee.device)  # of the epoch's losses
        self.bad = torch.tensor(-1.0, device=trainee.device)  # the first step without a number
        pinned = trainee.device.type == "cuda"
        self._seen = torch.tensor([float("nan"), -1.0], pin_memory=pinned)  # mean loss, bad step
        self.loss = float("nan")  # the epoch's mean so far, as last seen
        self._before = 0.0  # seconds of the epoch, spent before the run was resumed
        self._clock = self._saved = time.perf_counter()

    def took(self, loss: torch.Tensor) -> None:
        """Count a step, without waiting for its result."""
        self.step += 1
        self.total += loss
        self.bad = torch.where((self.bad < 0) & ~torch.isfinite(loss), self.step, self.bad)
        if self.trainee.device.type == "cpu":
            self._look(self.total / self.step, self.bad)
        elif self.step % _LOOK == 0:
            self._look(*self._seen)  # what was sent here some steps ago
            now = torch.stack([self.total / self.step, self.bad])
            self._seen.copy_(now, non_blocking=True)

    def _look(self, loss: torch.Tensor, bad: torch.Tensor) -> None:
        self.loss = float(loss)
        if float(bad) >= 0:
            raise TrainingError(
                f"{self.folder}: the loss of step {int(bad)} of epoch {len(self.history) + 1} is "
                "not a number; the last checkpoint is kept. Try a learning rate below "
                f"{self.trainee.recipe.learning_rate}"
            )

    def elapsed(self) -> float:
        """Seconds of this epoch so far."""
        return self._before + time.perf_counter() - self._clock

    def is_due(self) -> bool:
        """Whether the last checkpoint is old; of several processes, all would have to agree."""
        return self.world.size == 1 and time.perf_counter() - self._saved > CHECKPOINT_SECONDS

    def save(self) -> None:
        """Write a checkpoint, unless the state is no longer worth keeping."""
        self._look(self.total / max(self.step, 1), self.bad)
        random = self.world.gathered([_random_states()])
        if self.world.first:
            content = {
                "model": self.trainee.model.state_dict(),
                "optimiser": self.trainee.optimiser.state_dict(),
                "scaler": self.trainee.scaler.state_dict(),
                "random": random,  # of each process
                "history": self.history,
                "best": self.best,
                "weights": self.weights,
                "step": self.step,
                "total": self.total,
                "seconds": self.elapsed(),
            }
            save_checkpoint(self.folder, content)
        self._saved = time.perf_counter()

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole, if there is one."""
        trainee = self.trainee
        content = load_checkpoint(self.folder, trainee.device)
        if content is None:
            return
        trainee.model.load_state_dict(content["model"])
        trainee.optimiser.load_state_dict(content["optimiser"])
        if content["scaler"] and trainee.scaler.is_enabled():  # the GPU may be of another kind
            trainee.scaler.load_state_dict(content["scaler"])
        self.history, self.best = content["history"], tuple(content["best"])
        self.weights = {name: value.cpu() for name, value in content["weights"].items()}
        self.step, self.total = content["step"], content["total"]
        self._before = content["seconds"]
        if len(content["random"]) == self.world.size:  # else other processes: each by its own seed
            own, *on_gpu = content["random"][self.world.rank]
            torch.set_rng_state(own.cpu())
            if trainee.device.type == "cuda" and on_gpu:
                torch.cuda.set_rng_state(on_gpu[0].cpu())

    def _copy(self) -> dict[str, torch.Tensor]:
        state = self.trainee.model.state_dict().items()
        return {name: value.detach().cpu().clone().contiguous() for name, value in state}

    def end_epoch(self, row: dict[str, float]) -> None:
        """Keep the weights if they are the best so far; write checkpoint and history."""
        self._look(self.total / max(self.step, 1), self.bad)
        self.history.append(row)
        if _reached(row) > self.best:
            self.best, self.weights = _reached(row), self._copy()
        self.step, self.total, self._before = 0, torch.zeros_like(self.total), 0.0
        self._clock = time.perf_counter()
        self.save()
        if self.world.first:
            self._write_history()

    def is_stuck(self) -> bool:
        """Whether validation has not improved for as many epochs as the recipe has patience."""
        patience = self.trainee.recipe.patience
        if patience is None or not self.history:
            return False
        reached = [_reached(row) for row in self.history]
        return len(reached) - 1 - reached.index(max(reached)) >= patience

    def _write_history(self) -> None:
        columns = ["epoch", "loss", "validation_loss", "validation_cross_entropy",
                   "validation_dice", "seconds"]  # fmt: skip
        table = pd.DataFrame(self.history, columns=columns)
        write_aside(self.folder / "history.csv", lambda name: table.to_csv(name, index=False))

    def finish(self, provenance: dict[str, Any]) -> None:
        """Weights first, provenance last: a folder that has it is complete."""
        provenance["seconds"] = sum(row["seconds"] for row in self.history)
        weights = self.weights
        write_aside(self.folder / "weights.safetensors", lambda name: save_file(weights, name))
        self._write_history()
        write_json(self.folder / "provenance.json", provenance)
        drop_checkpoints(self.folder)


def _reached(row: dict[str, float]) -> tuple[float, float]:
    """Validation Dice, and of equals the lower loss: it falls before anything is segmented."""
    dice = row["validation_dice"]
    return (dice if np.isfinite(dice) else 0.0, -row["validation_loss"])


def _random_states() -> list[torch.Tensor]:
    """Of the CPU, and of the GPU if there is one."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *gpu]
