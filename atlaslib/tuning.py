"""Short runs for the choice of rate and batch size, as in section 5.3 of the paper."""

from __future__ import annotations

import pandas as pd

from atlaslib.claims import Effect, difference, repeated
from atlaslib.cohort import Cohort
from atlaslib.cost import batch_costs
from atlaslib.evaluation import evaluate
from atlaslib.recipes import SHORT, Recipe, Value, recipe
from atlaslib.training import train

# Of short runs. The rate is a power of ten, so that one run serves the comparison of rates and
# that of batch sizes; at full scale the paper's own values do.
_STEP: dict[str, dict[str, Value]] = {
    "smoke": {"learning_rate": 0.001},
    "quick": {"learning_rate": 0.001, "batch_size": 16},
    "paper": {},
}


def short_recipe(profile: str, **changes: Value) -> Recipe:
    """The ResNet's recipe of a profile, shortened; one arm of the tuning of section 5.3."""
    return recipe("resnet", profile, **(SHORT[profile] | _STEP[profile] | changes))


def halved_batches(profile: str) -> tuple[int, int]:
    """The short runs' batch size, as after the paper's change from 100 to 50, and the double."""
    size = short_recipe(profile).batch_size
    return size, 2 * size


def validation_table(arm: Recipe, cohort: Cohort, progress: bool = False) -> pd.DataFrame:
    """Train an arm, or find it again, and evaluate it on the validation subjects."""
    run = train(arm, cohort, progress=progress)
    part = cohort.split(seed=arm.split_seed)[1]
    return evaluate(run, part, progress=progress)


def tuning_effects(profile: str, cohort: Cohort, progress: bool = False) -> dict[str, Effect]:
    """Effects for the claims C4a to C5b from short runs and a few timed steps."""
    half, whole = halved_batches(profile)
    arms = {
        "lower": short_recipe(profile, learning_rate=0.00001),
        "low": short_recipe(profile, learning_rate=0.0001),
        "high": short_recipe(profile, learning_rate=0.001),
        "half": short_recipe(profile, batch_size=half),
        "whole": short_recipe(profile, batch_size=whole),
    }
    tables = {name: validation_table(arm, cohort, progress) for name, arm in arms.items()}
    return {
        "C4a": difference(tables["low"], tables["high"]),
        "C4b": difference(tables["low"], tables["lower"]),
        "C5a": repeated([saved_by_half(arms["whole"])]),
        "C5b": difference(tables["half"], tables["whole"]),
    }


def saved_by_half(whole: Recipe) -> float:
    """The share of a step's time or memory, the smaller, that half the batch saves."""
    costs = batch_costs(whole, [whole.batch_size // 2, whole.batch_size])
    saved = 1 - costs.iloc[0] / costs.iloc[1]
    return float(min(saved.seconds, saved.memory_mb))
