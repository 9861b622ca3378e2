"""The plan of ``data/results/protocol.md`` in code: people, pilot and arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from atlaslib.files import file_digest, shipped
from atlaslib.profiles import recipe
from atlaslib.recipes import Recipe, Value

MARGIN = 0.02  # in Dice: a length whose arms are all this close to the longest is long enough
FOLDS = 6  # of a folder of real data
PILOT = "pilot: "  # prefix of the arms that only serve to choose rate and length
COLLAPSED = 0.01  # a training whose mean Dice is lower has collapsed

#: The first seeds of the synthetic cohorts for the main trainings, for the pilot and for the test.
MAIN_PEOPLE, PILOT_PEOPLE, TEST_PEOPLE = 200, 300, 400

_ENCODERS: dict[str, dict[str, Value]] = {
    "6 convolutions": {"model": "baseline", "dropout": 0.0},
    "6 convolutions, norm": {"model": "baseline", "dropout": 0.0, "normalise": True},
    "20 units": {"model": "resnet"},
    "4 units": {"model": "resnet", "units": 4},
}
_DECODERS: dict[str, Value] = {
    "U-Net": "unet", "no skips": "unet without skips", "map": "map", "vector": "vector",
}  # fmt: skip
ENCODERS = tuple(_ENCODERS)[:3]  # of the factorial
DECODERS = tuple(_DECODERS)

# What all arms share, where their model has it; not a profile's values, which may change.
_SHARED: dict[str, Value] = {
    "window": True,
    "flip": True,
    "lesion_share": 0.75,
    "pos_weight": 5.0,
    "initial_prior": True,
    "decay": True,
    "patience": None,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The values of a profile.

    Attributes
    ----------
    people : int
        Of each seed's cohort, of which 70 % are trained on and 15 % choose the weights.
    test_people : int
    primary, secondary, fine : int
        Seeds of the primary arms, of the others, and of the primary arms on the finer grid.
    rates : tuple of float
        Learning rates that the pilot tries.
    lengths : three int
        Passes that the pilot tries; rates are compared at the second.
    pilot_seeds : int
    downsample : two int
        The slice grid and the finer one, in mm.
    width, batch_size : int
    """

    people: int = 100
    test_people: int = 100
    primary: int = 12
    secondary: int = 6
    fine: int = 4
    rates: tuple[float, ...] = (0.0005, 0.001, 0.002)
    lengths: tuple[int, int, int] = (6, 12, 24)
    pilot_seeds: int = 2
    downsample: tuple[int, int] = (4, 3)
    width: int = 8
    batch_size: int = 8


PLANS = {
    "smoke": Plan(people=7, test_people=3, primary=2, secondary=2, fine=1, rates=(0.001, 0.002),
                  lengths=(1, 1, 2), pilot_seeds=1, downsample=(8, 6), width=2),
    "quick": Plan(),
    # on a GPU; the finer grid is then the whole one
    "colab": Plan(downsample=(2, 1), batch_size=16),
    "paper": Plan(downsample=(2, 1), width=16, batch_size=50),
}  # fmt: skip


class Choice(NamedTuple):
    """What the pilot decides."""

    rates: Mapping[str, float]  # learning rate by encoder
    passes: int
    unsettled: tuple[str, ...]  # arms that the longest still improves by more than MARGIN


class Job(NamedTuple):
    """One training."""

    arm: str
    seed: int
    recipe: Recipe

    @property
    def pilot(self) -> bool:
        """Whether it only helps to choose rate and length."""
        return self.arm.startswith(PILOT)


def digest() -> str:
    """Twelve hexadecimal digits of the protocol's SHA-256."""
    return file_digest(shipped("results") / "protocol.md")[:12]


def cell(encoder: str, decoder: str) -> str:
    """The arm of an encoder with a decoder."""
    names = {("6 convolutions", "U-Net"): "baseline", ("20 units", "vector"): "resnet"}
    return names.get((encoder, decoder), f"{encoder}, {decoder}")


def _recipe(
    profile: str, encoder: str, decoder: str, rate: float, passes: int, **changes: Value
) -> Recipe:
    plan = PLANS[profile]
    chosen = dict(_ENCODERS[encoder])
    name = str(chosen.pop("model"))
    chosen |= {"decoder": _DECODERS[decoder], "width": plan.width, "downsample": plan.downsample[0]}
    chosen |= {"batch_size": plan.batch_size, "learning_rate": rate, "epochs": passes}
    if decoder == "vector":
        chosen["vector"] = 4 * plan.width  # as many numbers as the encoder has averages
    if name == "baseline" and decoder in ("map", "vector"):
        chosen["map_width"] = plan.width
    return recipe(name, profile, **(_SHARED | chosen | changes))


def arms(profile: str, choice: Choice) -> dict[str, tuple[Recipe, int]]:
    """Each arm's recipe, with seed 0, and its number of seeds; the primary arms first."""
    plan, passes = PLANS[profile], choice.passes

    def of(encoder: str, decoder: str, **changes: Value) -> Recipe:
        rate = choice.rates["20 units" if encoder == "4 units" else encoder]
        return _recipe(profile, encoder, decoder, rate, passes, **changes)

    def today(name: str) -> Recipe:
        return recipe(name, profile, downsample=plan.downsample[0], epochs=passes)

    corners = {"baseline": ("6 convolutions", "U-Net"), "resnet": ("20 units", "vector")}
    plain = {f"{name}, plain loss": of(*parts, pos_weight=1.0) for name, parts in corners.items()}
    primary = {name: of(*parts) for name, parts in corners.items()} | plain
    primary |= {f"{encoder}, U-Net": of(encoder, "U-Net") for encoder in ("20 units", "4 units")}
    cells = {
        cell(encoder, decoder): of(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS
    }
    secondary = {name: chosen for name, chosen in cells.items() if name not in primary}
    secondary["4 units, vector"] = of("4 units", "vector")
    secondary |= {name: today(name) for name in ("residual_unet", "dynunet")}
    secondary |= {f"{name}, by slice": of(*parts, split="slice") for name, parts in corners.items()}
    fine = {
        f"{name}, fine": dataclasses.replace(chosen, downsample=plan.downsample[1])
        for name, chosen in primary.items()
    }
    zero = recipe("zero", profile, pos_weight=1.0)
    counted = ((primary, plan.primary), ({"zero": zero}, 1), (secondary, plan.secondary),
               (fine, plan.fine))  # fmt: skip
    return {name: (chosen, seeds) for part, seeds in counted for name, chosen in part.items()}


def pilot_jobs(profile: str) -> list[Job]:
    """The trainings that choose learning rates and length, without those that depend on the rates.

    Those are in :func:`length_jobs`.
    """
    plan = PLANS[profile]
    return [
        _pilot_job(profile, *parts, rate, plan.lengths[1], seed)
        for parts in (*((encoder, "U-Net") for encoder in ENCODERS), ("20 units", "vector"))
        for rate in plan.rates
        for seed in range(plan.pilot_seeds)
    ]


def length_jobs(profile: str, rates: Mapping[str, float]) -> list[Job]:
    """The pilot's trainings at each length, at the rates chosen."""
    plan = PLANS[profile]
    return [
        _pilot_job(profile, encoder, decoder, rates[encoder], passes, seed)
        for encoder, decoder in _LENGTH_ARMS
        for passes in dict.fromkeys(plan.lengths)
        for seed in range(plan.pilot_seeds)
    ]


_LENGTH_ARMS = (("6 convolutions", "U-Net"), ("20 units", "vector"), ("20 units", "U-Net"))


def _pilot_job(
    profile: str, encoder: str, decoder: str, rate: float, passes: int, seed: int
) -> Job:
    arm = f"{PILOT}{cell(encoder, decoder)}, rate {rate:g}, {passes} passes"
    chosen = _recipe(profile, encoder, decoder, rate, passes, seed=seed, split_seed=seed)
    return Job(arm, seed, chosen)


def tried_rates(profile: str, history: pd.DataFrame) -> pd.DataFrame:
    """Validation Dice in the pilot, by encoder (rows) and learning rate (columns).

    Parameters
    ----------
    profile : str
    history : DataFrame
        arm, seed, validation_dice: one row per pass, of all :func:`pilot_jobs`.
    """
    jobs = pd.DataFrame(
        [(job.arm, job.seed, _encoder_of(job.recipe), job.recipe.learning_rate)
         for job in pilot_jobs(profile)], columns=["arm", "seed", "encoder", "rate"],
    )  # fmt: skip
    found = jobs.join(_kept(history), on=["arm", "seed"])
    return found.groupby(["encoder", "rate"]).dice.mean().unstack().loc[list(ENCODERS)]


def choose_rates(profile: str, history: pd.DataFrame) -> dict[str, float]:
    """The learning rate of each encoder, by :func:`tried_rates`."""
    best = tried_rates(profile, history).idxmax(axis=1)
    return {encoder: float(best[encoder]) for encoder in ENCODERS}


def tried_lengths(profile: str, history: pd.DataFrame, rates: Mapping[str, float]) -> pd.DataFrame:
    """Validation Dice of the pilot's trainings at each length: arm, seed, passes, dice.

    Parameters
    ----------
    profile : str
    history : DataFrame
        As for :func:`tried_rates`, of all :func:`length_jobs`.
    rates : mapping from an encoder to its learning rate
    """
    arms = pd.DataFrame(
        [(_pilot_job(profile, *parts, rates[parts[0]], passes, 0).arm, cell(*parts), passes)
         for parts in _LENGTH_ARMS for passes in dict.fromkeys(PLANS[profile].lengths)],
        columns=["pilot", "arm", "passes"],
    )  # fmt: skip
    kept = _kept(history).reset_index().rename(columns={"arm": "pilot"})
    return arms.merge(kept, on="pilot")[["arm", "seed", "passes", "dice"]]


def _encoder_of(chosen: Recipe) -> str:
    if chosen.model == "resnet":
        return "20 units"
    return "6 convolutions, norm" if chosen.normalise is True else "6 convolutions"


def choose(profile: str, history: pd.DataFrame) -> Choice:
    """Rates and length, by the validation Dice of all of the pilot's trainings."""
    rates = choose_rates(profile, history)
    lengths = PLANS[profile].lengths
    found = tried_lengths(profile, history, rates)
    reached = found.groupby(["passes", "arm"], sort=False).dice.mean().unstack()
    short = reached.loc[lengths[-1]] - reached
    enough = [passes for passes in lengths if (short.loc[passes] <= MARGIN).all()]
    unsettled = [str(arm) for arm, gain in short.loc[lengths[1]].items() if gain > MARGIN]
    return Choice(rates, enough[0], tuple(unsettled))


def _kept(history: pd.DataFrame) -> pd.Series:
    """The validation Dice of the weights that each training kept, by arm and seed."""
    return history.groupby(["arm", "seed"]).validation_dice.max().rename("dice")


def jobs(profile: str, choice: Choice) -> list[Job]:
    """Every training that counts, in the order in which they are run."""
    return [
        Job(arm, seed, dataclasses.replace(
            chosen, seed=seed, split_seed=0 if chosen.split == "slice" else seed))
        for arm, (chosen, seeds) in arms(profile, choice).items()
        for seed in range(seeds)
    ]  # fmt: skip


def in_folds(listed: list[Job]) -> list[Job]:
    """The same arms on a folder of real data: folds instead of seeds, and without the leak."""
    arms = {job.arm: job for job in listed if job.recipe.split != "slice"}
    return [
        Job(job.arm, fold, dataclasses.replace(job.recipe, seed=fold, split_seed=fold, folds=FOLDS))
        for job in arms.values()
        for fold in range(PLANS[job.recipe.profile].pilot_seeds if job.pilot else FOLDS)
    ]
