"""The paper's claims as testable statements, the arms that test them, and the verdicts.

The paper gives no margins, so the ones here are ours. A verdict is a rule applied to an
interval; with one seed and one split a run can only point somewhere, never confirm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from atlaslib.cohort import Cohort
from atlaslib.cost import batch_costs
from atlaslib.evaluation import evaluate
from atlaslib.metrics import bootstrap_mean
from atlaslib.recipes import Recipe, recipe
from atlaslib.training import train

FEWEST = 8  # subjects, below which a bootstrap over subjects says nothing


class Effect(NamedTuple):
    """A measured quantity with its interval."""

    value: float
    low: float
    high: float
    subjects: int | None = None  # that were resampled; None: nothing was, the value is a count

    def __str__(self) -> str:
        """For people: ``0.120 [0.051, 0.190]``; without an interval the value alone."""
        if self.subjects is None:
            return f"{self.value:.2f}"
        text = f"{self.value:.3f} [{self.low:.3f},\N{NO-BREAK SPACE}{self.high:.3f}]"
        return text.replace("-", "\N{MINUS SIGN}")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper and the rule by which a build judges it."""

    key: str
    section: str  # of the paper
    statement: str
    quantity: str = ""  # what is measured; empty: not tested yet
    comparison: str = "above"  # "above" the margin, or "within" plus or minus the margin
    margin: float = 0.0

    @property
    def rule(self) -> str:
        """When the verdict is yes; the wording of the table's column."""
        if not self.quantity:
            return "not yet tested"
        if self.comparison == "within":
            return f"{self.quantity}: interval within ± {self.margin:g}"
        return f"{self.quantity}: interval above {self.margin:g}"

    def verdict(self, effect: Effect | None) -> str:
        """The word for an effect: "points to yes", "points to no", "undecided".

        Yes if the whole interval fulfils the rule, no if the whole interval breaks it, and
        undecided if it does neither, or if there are fewer than eight subjects.
        """
        if effect is None or not self.quantity:
            return "not yet tested"
        few = effect.subjects is not None and effect.subjects < FEWEST
        if few or not np.isfinite([effect.low, effect.high]).all():
            return "undecided"
        if self.comparison == "within":
            yes = -self.margin < effect.low and effect.high < self.margin
            no = effect.low > self.margin or effect.high < -self.margin
        else:
            yes, no = effect.low > self.margin, effect.high < self.margin
        return "points to yes" if yes else "points to no" if no else "undecided"


CLAIMS = (
    Claim(
        "C1",
        "4",
        "The baseline learns to segment lesions.",
        "Dice of baseline minus Dice of zero",
        margin=0.1,
    ),
    Claim(
        "C2",
        "6, 7",
        "The ResNet ends with a similar loss.",
        "loss of ResNet minus baseline, as a share of the baseline's",
        "within",
        0.1,
    ),
    Claim(
        "C3",
        "6, 7",
        "The ResNet's Dice is lower than the baseline's.",
        "Dice of baseline minus Dice of ResNet",
    ),
    Claim(
        "C4",
        "5.3",
        "A learning rate of 0.0001 serves the ResNet better than 0.001.",
        "Dice at 0.0001 minus Dice at 0.001",
    ),
    Claim(
        "C5a",
        "5.3",
        "Halving the mini-batch makes a step much cheaper.",
        "share saved of a step's memory or time, the smaller",
        margin=0.25,
    ),
    Claim(
        "C5b",
        "5.3",
        "Halving the mini-batch improves the ResNet.",
        "Dice at half the batch minus Dice at the whole",
    ),
    Claim("C6", "7", "The depth of the ResNet does not help."),
    Claim("C7", "7", "Hidden layers, and neurons of the last layer, are levers."),
)


def difference(
    first: pd.DataFrame, second: pd.DataFrame, column: str = "dice", relative: bool = False
) -> Effect:
    """Mean of first minus second over the same scans, with a 95 % interval over subjects.

    Parameters
    ----------
    first, second : DataFrame
        From :func:`atlaslib.evaluate`, on the same cohort.
    column : str
    relative : bool
        Divide by the mean of `second`.

    Raises
    ------
    ValueError
        If the tables do not hold the same scans.
    """
    keys = ["subject", "session"]
    pairs = first.merge(second, on=keys, suffixes=("", "_second"), validate="one_to_one")
    if not len(pairs) == len(first) == len(second):
        raise ValueError(f"{len(first)} and {len(second)} scans, of which {len(pairs)} agree")
    change = pairs[column] - pairs[f"{column}_second"]
    scale = float(pairs[f"{column}_second"].mean()) if relative else 1.0
    mean, low, high = bootstrap_mean(change / scale, pairs.subject)
    return Effect(mean, low, high, int(pairs.subject.nunique()))


# Short runs for comparing many arms: the rest of the recipe is the profile's own. Their rate is a
# power of ten, so that one run serves the comparison of rates and that of batch sizes.
_SHORT: dict[str, dict[str, int | float]] = {
    "smoke": {"epochs": 1, "learning_rate": 0.001},
    "quick": {"epochs": 1, "learning_rate": 0.001, "downsample": 4, "batch_size": 16},
    "paper": {"epochs": 10},
}


def short_recipe(profile: str, **changes: int | float | str | bool | None) -> Recipe:
    """The ResNet's recipe of a profile, shortened; one arm of the tuning of section 5.3."""
    return recipe("resnet", profile, **(dict(_SHORT[profile]) | changes))


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
    """Effects for C4, C5a and C5b from short runs and a few timed steps."""
    half, whole = halved_batches(profile)
    arms = {
        "low": short_recipe(profile, learning_rate=0.0001),
        "high": short_recipe(profile, learning_rate=0.001),
        "half": short_recipe(profile, batch_size=half),
        "whole": short_recipe(profile, batch_size=whole),
    }
    tables = {name: validation_table(arm, cohort, progress) for name, arm in arms.items()}
    costs = batch_costs(arms["whole"], [half, whole])
    saved = 1 - costs.iloc[0] / costs.iloc[1]
    least = float(min(saved.seconds, saved.memory_mb))
    return {
        "C4": difference(tables["low"], tables["high"]),
        "C5a": Effect(least, least, least),
        "C5b": difference(tables["half"], tables["whole"]),
    }


def verdicts(effects: Mapping[str, Effect]) -> pd.DataFrame:
    """One row per claim: what it says, the verdict, the effect, and the rule.

    Parameters
    ----------
    effects : mapping of a claim's key to its Effect
        Claims without an effect are shown as not yet tested.

    Returns
    -------
    DataFrame
        claim, statement, verdict, effect (the next three, for people), value, low, high,
        subjects, rule, comparison, margin.
    """
    rows = []
    for claim in CLAIMS:
        effect = effects.get(claim.key)
        shown = effect if effect is not None else Effect(np.nan, np.nan, np.nan)
        told = {"claim": claim.key, "statement": claim.statement, "verdict": claim.verdict(effect)}
        told["effect"] = "" if effect is None else str(effect)
        used = {"rule": claim.rule, "comparison": claim.comparison, "margin": claim.margin}
        rows.append(told | shown._asdict() | used)
    return pd.DataFrame(rows).astype({"subjects": "Int64"})
