"""What training costs: atlaslib beside its upper limit, plain PyTorch and MONAI's trainer.

    python benchmarks/train.py [--profile quick|paper] [--model MODEL ...] [--out FILE.json]

Every program trains the same model with Adam, gradient clipping and weighted cross entropy,
atlaslib with the recipe's loss; all but the bare step see the same slices in the same order,
cropped and downsampled as the recipe says. A model that also looks at neighbouring slices is
trained by atlaslib and the bare step alone. The programs take turns in one process, round by
round after a warm-up, and so does a matrix product, whose rate of operations is the ceiling; they
are compared within each round, because a machine's speed may change between rounds. On a CPU all
programs flush denormal numbers to zero, as atlaslib does by itself. Reading NIfTI files is not
timed: the caches of atlaslib and MONAI are filled beforehand.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torch.utils.flop_counter import FlopCounterMode

from atlaslib import Cohort, Recipe, build_model, make_cohort, recipe
from atlaslib.data.model_input import to_model_input
from atlaslib.files import atomic_write
from atlaslib.models.device import best_device, fast_layout, half_precision
from atlaslib.training.batches import epoch_batches, epoch_order
from atlaslib.training.custom import Custom
from atlaslib.training.distributed import DistributedContext
from atlaslib.training.state import TrainingState
from atlaslib.training.step import TrainingSession, denormals_as_zero
from data import DEPTH, cut, machine, monai_volumes

ROUNDS = 8
WARM_UP = 5  # untimed steps of each program; on a GPU the first one compiles the model
WORKERS = 2  # of each data loader
SCANS = 229  # in ATLAS R1.1: the model is compiled here if a run on all of them would compile it
SIDE = {"cuda": 8192, "cpu": 2048}  # of the square matrices whose product is the ceiling
PRODUCTS = {"cuda": 50, "cpu": 5}  # in each round
MODELS = ("baseline", "resnet", "residual_unet", "dynunet")

Run = Callable[[int], object]  # takes this many more steps
Batch = tuple[torch.Tensor, torch.Tensor]


class Given:
    """What the programs share: a training session, and the slices and flips of each step."""

    def __init__(self, chosen: Recipe, cohort: Cohort, steps: int) -> None:
        epochs = max(1, round(chosen.epochs * SCANS / len(cohort)))
        self.recipe = dataclasses.replace(chosen, epochs=epochs)
        self.session = TrainingSession(self.recipe, cohort, Custom(), DistributedContext(), False)
        self.device, self.slices = self.session.device, self.session.slices
        self.gpu = self.device.type == "cuda"
        self.rows: list[np.ndarray] = []
        self.flips: list[torch.Tensor] = []
        for epoch in itertools.count():
            if len(self.rows) >= steps:
                break
            order = epoch_order(self.slices.table, chosen, epoch)
            for known, more in zip((self.rows, self.flips), epoch_batches(order, chosen, epoch),
                                   strict=True):  # fmt: skip
                known.extend(more[: steps - len(known)])
        self.size = len(self.rows[0])  # slices per step

    def model(self) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return build_model(self.recipe.model, **self.recipe.model_options()).to(self.device).train()

    def optimiser(self, model: nn.Module, **more: bool) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.recipe.learning_rate, **more)

    def loss(self) -> nn.Module:
        weight = torch.tensor(self.recipe.pos_weight, device=self.device)
        return nn.BCEWithLogitsLoss(pos_weight=weight)

    def loader(self, slices: Any, collate: Callable, **more: Any) -> Any:
        more |= {"num_workers": WORKERS, "multiprocessing_context": "fork", "collate_fn": collate}
        return iter(DataLoader(slices, batch_sampler=self.rows, **more))


# --- programs: each prepares itself and returns a function that takes a number of steps ----------


def atlaslib(given: Given) -> Run:
    """What ``atlaslib.train`` does between validations; it alone mirrors and augments slices."""
    session = given.session
    session.model.train()
    # writes nothing unless told to
    state = TrainingState(Path("benchmark"), session, DistributedContext())
    batches = session.batches.iterate(given.rows, given.flips)

    def run(steps: int) -> None:
        for x, y in itertools.islice(batches, steps):
            state.record_step(session.step(x, y))

    return run


def bare(given: Given) -> Run:
    """The upper limit: the same batch in every step, and the loss is never read."""
    model = fast_layout(given.model(), given.device)
    optimiser = given.optimiser(model, fused=True)
    if given.session.forward is not given.session.model:
        model = torch.compile(model)  # type: ignore[assignment]
    batch = next(given.session.batches.iterate(given.rows[:1], given.flips[:1]))
    return loop(given, model, optimiser, itertools.repeat(batch), half_precision(given.device))


def plain(given: Given) -> Run:
    """What a textbook shows: float32 throughout, and the loss read in every step."""
    model = given.model()

    def collate(pairs: list) -> list[torch.Tensor]:
        return [to_model_input(part, given.recipe) for part in default_collate(pairs)]

    batches = given.loader(given.slices, collate)
    return loop(given, model, given.optimiser(model), batches, read_loss=True)


def loop(given: Given, model: nn.Module, optimiser: torch.optim.Optimizer, batches: Iterable[Batch],
         half: torch.dtype | None = None, read_loss: bool = False) -> Run:  # fmt: skip
    criterion = given.loss()

    def run(steps: int) -> None:
        total = 0.0
        for images, masks in itertools.islice(batches, steps):
            images, masks = images.to(given.device), masks.to(given.device)
            optimiser.zero_grad()
            with torch.autocast(given.device.type, half, enabled=half is not None):
                logits = model(images)
            loss = criterion(logits.float(), masks)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), given.recipe.clip_norm)
            optimiser.step()
            total += loss.item() if read_loss else 0

    return run


def monai(given: Given) -> Run:
    """SupervisedTrainer on slices of the volumes that CacheDataset holds, as in ``data.py``; on a
    GPU with mixed precision. ``decollate``, which only serves postprocessing, is off.
    """
    from monai.data import CacheDataset
    from monai.engines import IterationEvents, SupervisedTrainer

    volumes = CacheDataset(*monai_volumes(given.slices.cohort), num_workers=None, progress=False)
    model = given.model()
    optimiser = given.optimiser(model)

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        images, masks = cut(volumes, rows)
        return {
            "image": to_model_input(images, given.recipe),
            "label": to_model_input(masks, given.recipe),
        }

    def clip(engine: Any) -> None:
        if engine.scaler is not None:
            engine.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), given.recipe.clip_norm)

    batches = given.loader(range(len(volumes) * DEPTH), collate, pin_memory=given.gpu)

    def run(steps: int) -> None:
        trainer = SupervisedTrainer(
            given.device, 1, batches, model, optimiser, given.loss(), steps, given.gpu,
            amp=given.gpu, optim_set_to_none=True, decollate=False)  # fmt: skip
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, clip)
        trainer.run()

    return run


def product(given: Given) -> Run:
    """The ceiling: a product of large square matrices, in the precision of training."""
    side, kind = SIDE[given.device.type], half_precision(given.device)
    a, b = torch.randn(2, side, side, device=given.device, dtype=kind)

    def run(times: int) -> None:
        for _ in range(times):
            a @ b

    return run


PROGRAMS = {"atlaslib": atlaslib, "bare step": bare, "plain PyTorch": plain, "MONAI": monai}
NEEDS = {"MONAI": {"monai": "monai", "ignite": "pytorch-ignite"}}  # module: package
WITH_CONTEXT = ("atlaslib", "bare step")  # programs that give a model neighbouring slices

# --- measuring -----------------------------------------------------------------------------------


def seconds(run: Run, steps: int) -> float:
    finish = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    finish()
    begun = time.perf_counter()
    run(steps)
    finish()
    return time.perf_counter() - begun


def warm(name: str, given: Given) -> tuple[Run, float]:
    """A program after its warm-up, and the peak GPU memory of its last step in MB."""
    # memory of the programs before it; the session, made before all of them, is atlaslib's own
    others = torch.cuda.memory_allocated() if given.gpu and name != "atlaslib" else 0
    run = PROGRAMS[name](given)
    run(WARM_UP - 1)
    if given.gpu:
        torch.cuda.reset_peak_memory_stats()
    run(1)
    return run, (torch.cuda.max_memory_allocated() - others) / 1e6 if given.gpu else np.nan


def present(name: str) -> bool:
    lacking = [p for m, p in NEEDS.get(name, {}).items() if importlib.util.find_spec(m) is None]
    if lacking:
        print(f"{name} is left out, as it needs: pip install {' '.join(lacking)}")
    return not lacking


@denormals_as_zero()
def compare(chosen: Recipe, cohort: Cohort, steps: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """One row per program: slices per second, ratios, memory; and the limits beside them."""
    given = Given(chosen, cohort, WARM_UP + ROUNDS * steps)
    able = WITH_CONTEXT if chosen.context_slices else tuple(PROGRAMS)
    ready = {name: warm(name, given) for name in filter(present, able)}
    multiply, times = product(given), PRODUCTS[given.device.type]
    multiply(times)
    taken, products = [], []
    for _ in range(ROUNDS):
        taken.append({name: seconds(run, steps) for name, (run, _) in ready.items()})
        products.append(seconds(multiply, times))
    rates = steps * given.size / pd.DataFrame(taken)  # one row per round
    with FlopCounterMode(display=False) as counter:  # two slices, forward and backward
        x = next(given.session.batches.iterate(given.rows[:1], given.flips[:1]))[0][:2]
        given.model()(x).mean().backward()
    each = counter.get_total_flops() / 2
    ceiling = times * 2 * SIDE[given.device.type] ** 3 / np.array(products)  # operations per second
    columns = {"slices/s": rates, "of bare step": rates.div(rates["bare step"], axis=0),
               "to atlaslib": rates.div(rates["atlaslib"], axis=0),
               "of ceiling": (each * rates).div(ceiling, axis=0)}  # fmt: skip
    table = pd.DataFrame({name: values.median() for name, values in columns.items()})
    limits = {"GFLOP a slice": each / 1e9, "ceiling, TFLOP/s": float(np.median(ceiling)) / 1e12}
    if given.gpu:
        table["peak, MB"] = [peak for _, peak in ready.values()]
        return table, limits
    for threads in sorted({1, torch.get_num_threads()}):  # the last is the initial number
        torch.set_num_threads(threads)
        measured = steps * given.size / seconds(ready["bare step"][0], steps)
        limits[f"bare step, slices/s, threads: {threads}"] = measured
    return table, limits


def main() -> None:
    parser = argparse.ArgumentParser(description="What training costs, program by program.")
    parser.add_argument("--profile", choices=("quick", "paper"), default="quick")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["baseline"])
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help=f"in each of {ROUNDS} rounds")
    parser.add_argument("--out", type=Path, help="also write JSON: a list, if of several models")
    args = parser.parse_args()
    device, found = best_device(), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATLASLIB_HOME"] = folder  # where the cache is written
        host = machine()  # before any work of ours, which would count as load
        cohort = make_cohort(Path(folder) / "scans", args.subjects)
        for model in args.model:
            chosen = recipe(model, args.profile)
            about = host | {key: value for key, value in vars(args).items() if key != "out"}
            about |= {"model": model, "batch": chosen.batch_size}
            about["threads"] = torch.get_num_threads()
            about["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
            table, limits = compare(chosen, cohort, args.steps)
            print(f"\n{model}\n{table.to_string(float_format='{:,.4g}'.format)}\n")
            for name, value in (limits | about).items():
                print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
            rows = json.loads(table.rename_axis("program").reset_index().to_json(orient="records"))
            found.append({"about": about, "limits": limits, "rows": rows})
    if args.out:
        text = json.dumps(found if len(found) > 1 else found[0], indent=1) + "\n"
        atomic_write(args.out, lambda name: Path(name).write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
