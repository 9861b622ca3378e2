"""The paper's claims as testable statements, and the verdicts of a written rule.

The paper gives no margins, so the ones here are ours. A verdict is a rule applied to an interval.
With fewer than five seeds it can only point somewhere, never confirm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from atlaslib.metrics import bootstrap_mean

FEWEST = 8  # subjects, below which a bootstrap over subjects says nothing
SEEDS = 5  # from which on a verdict is more than a hint
_WORDS = {True: ("confirmed", "refuted"), False: ("points to yes", "points to no")}


class Effect(NamedTuple):
    """A measured quantity with its interval."""

    value: float
    low: float
    high: float
    subjects: int | None = None  # that were resampled; None: no model was scored
    seeds: int = 1  # trainings of each arm, or measurements, resampled as well

    def __str__(self) -> str:
        """For people: ``0.120 [0.051, 0.190]``; of a single measurement the value alone."""
        if self.subjects is None and self.seeds == 1:
            return f"{self.value:.2f}"
        text = f"{self.value:.3f} [{self.low:.3f},\N{NO-BREAK SPACE}{self.high:.3f}]"
        return text.replace("-", "\N{MINUS SIGN}")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper and the rule by which it is judged."""

    key: str
    section: str  # of the paper
    statement: str
    quantity: str  # what is measured
    comparison: str = (
        "above"  # "above" or "below" the margin; "within" or "beyond" plus or minus it
    )
    margin: float = 0.0
    arms: tuple[str, str] | None = None  # first minus second; None: no training is compared
    column: str = "dice"
    relative: bool = False  # as a share of the second arm's mean

    @property
    def rule(self) -> str:
        """When the verdict is yes; the wording of the table's column."""
        sign = "± " if self.comparison in ("within", "beyond") else ""
        return f"{self.quantity}: interval {self.comparison} {sign}{self.margin:g}"

    def verdict(self, effect: Effect | None) -> str:
        """The word for an effect.

        "confirmed" if the whole interval fulfils the rule, "refuted" if the whole interval breaks
        it, "undecided" if it does neither, or if there are fewer than eight subjects. With fewer
        than five seeds "points to yes" and "points to no" instead.
        """
        if effect is None:
            return "not yet tested"
        few = effect.subjects is not None and effect.subjects < FEWEST
        if few or not np.isfinite([effect.low, effect.high]).all():
            return "undecided"
        above, below = effect.low > self.margin, effect.high < self.margin
        inside = -self.margin < effect.low and effect.high < self.margin
        outside = above or effect.high < -self.margin
        yes, no = {
            "above": (above, below),
            "below": (below, above),
            "within": (inside, outside),
            "beyond": (outside, inside),
        }[self.comparison]
        words = _WORDS[effect.seeds >= SEEDS]
        return words[0] if yes else words[1] if no else "undecided"


CLAIMS = (
    Claim("C1", "4", "The baseline learns to segment lesions.",
          "Dice of baseline minus Dice of zero", margin=0.1, arms=("baseline", "zero")),
    Claim("C2", "6, 7", "The ResNet ends with a similar loss.",
          "loss of ResNet minus baseline, as a share of the baseline's", "within", 0.1,
          ("resnet", "baseline"), "loss", relative=True),
    Claim("C3", "6, 7", "The ResNet's Dice is lower than the baseline's.",
          "Dice of baseline minus Dice of ResNet", arms=("baseline", "resnet")),
    Claim("C4a", "5.3", "A learning rate of 0.0001 serves the ResNet better than 0.001.",
          "Dice at 0.0001 minus Dice at 0.001", arms=("resnet, rate 0.0001", "resnet")),
    Claim("C4b", "5.3", "And better than 0.00001.",
          "Dice at 0.0001 minus Dice at 0.00001",
          arms=("resnet, rate 0.0001", "resnet, rate 0.00001")),
    Claim("C5a", "5.3", "Halving the mini-batch makes a step much cheaper.",
          "share saved of a step's memory or time, the smaller", margin=0.25),
    Claim("C5b", "5.3", "Halving the mini-batch improves the ResNet.",
          "Dice at half the batch minus Dice at the whole",
          arms=("resnet, half batch", "resnet")),
    Claim("C6a", "7", "The depth of the ResNet does not help.",
          "Dice with 20 units minus Dice with 4", "below", 0.02, ("resnet", "resnet, 4 units")),
    Claim("C6b", "7", "Nor does it with the baseline's decoder and skip connections.",
          "Dice with 20 units minus Dice with 4", "below", 0.02,
          ("resnet, skips", "resnet, skips, 4 units")),
    Claim("C7a", "7", "The number of hidden layers is a lever.",
          "Dice with 8 units minus Dice with 20", "beyond", 0.02, ("resnet, 8 units", "resnet")),
    Claim("C7b", "7", "The neurons of the last layer are a lever.",
          "Dice with 256 numbers minus Dice with 64", "beyond", 0.02,
          ("resnet, 256 numbers", "resnet")),
)  # fmt: skip


def difference(
    first: pd.DataFrame, second: pd.DataFrame, column: str = "dice", relative: bool = False
) -> Effect:
    """Mean of first minus second over the same scans, with a 95 % interval.

    The interval is over subjects; if the tables hold several seeds, over these and over the
    subjects tested with each. Where all seeds test the same subjects, a subject that is drawn is
    drawn for all of them: five trainings on 24 people are not 120 people.

    Parameters
    ----------
    first, second : DataFrame
        From :func:`atlaslib.evaluate`, on the same cohort; or several of these with a column seed,
        the same seeds in both.
    column : str
    relative : bool
        Divide by the mean of `second`.

    Raises
    ------
    ValueError
        If the tables do not hold the same scans.
    """
    keys = ["subject", "session"] + ["seed"] * ("seed" in first)
    pairs = first.merge(second, on=keys, suffixes=("", "_second"), validate="one_to_one")
    if not len(pairs) == len(first) == len(second):
        raise ValueError(f"{len(first)} and {len(second)} scans, of which {len(pairs)} agree")
    change = pairs[column] - pairs[f"{column}_second"]
    scale = float(pairs[f"{column}_second"].mean()) if relative else 1.0
    mean, low, high = _interval(pairs.assign(change=change / scale), "change")
    count = int(pairs.seed.nunique()) if "seed" in pairs else 1
    return Effect(mean, low, high, int(pairs.subject.nunique()), count)


def repeated(values: Sequence[float]) -> Effect:
    """Mean of measurements that involve no subjects, with a 95 % interval over them."""
    return Effect(*bootstrap_mean(values), seeds=len(values))


def _interval(table: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean and 95 % interval, by what the seeds share.

    Where each seed has test subjects of its own, seeds are drawn and then the subjects of each.
    Where all seeds test the same subjects, that would count every subject once for each seed, so
    seeds and subjects are drawn independently of each other.
    """
    if "seed" not in table:
        return bootstrap_mean(table[column], table.subject)
    cells = table.groupby(["seed", "subject"])[column].agg(["sum", "count"]).unstack()
    counts = cells["count"].to_numpy()
    if len(counts) == 1 or not (counts == counts[0]).all():
        return bootstrap_mean(table[column], table.subject, table.seed)
    sums = cells["sum"].to_numpy()
    generator = np.random.default_rng(0)
    seeds, subjects = (  # how often each is drawn, (2000, n)
        generator.multinomial(size, np.full(size, 1 / size), 2000) for size in sums.shape
    )
    totals, numbers = (((seeds @ part) * subjects).sum(1) for part in (sums, counts))
    low, high = np.quantile(totals / numbers, [0.025, 0.975])
    return float(table[column].mean()), float(low), float(high)


def effects_of(table: pd.DataFrame) -> dict[str, Effect]:
    """The effect of each claim whose arms a table holds.

    Parameters
    ----------
    table : DataFrame
        arm, seed, subject, session, dice, loss, ...: one row per test scan.
    """
    parts = dict(tuple(table.groupby("arm")))
    return {
        claim.key: difference(
            parts[claim.arms[0]], parts[claim.arms[1]], claim.column, claim.relative
        )
        for claim in CLAIMS
        if claim.arms and set(claim.arms) <= set(parts)
    }


def levels(scans: pd.DataFrame, arms: Iterable[str], column: str = "dice") -> pd.DataFrame:
    """Mean of each arm over subjects and seeds, with its 95 % interval.

    Parameters
    ----------
    scans : DataFrame
        arm, seed, subject and `column`: one row per test scan.
    arms : iterable of str
    column : str

    Returns
    -------
    DataFrame
        arm, value, low, high.
    """
    rows = []
    for arm in arms:
        part = scans[scans.arm == arm]
        rows.append((arm, *_interval(part, column)))
    return pd.DataFrame(rows, columns=["arm", "value", "low", "high"])


def walk(scans: pd.DataFrame, steps: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """What each change on a way from one arm to another does to the Dice.

    Parameters
    ----------
    scans : DataFrame
        As for :func:`levels`.
    steps : sequence of (change, arm)
        :data:`atlaslib.arms.WALK` or ``WALK_BACK``; the first arm is where the way begins.

    Returns
    -------
    DataFrame
        change, arm, dice (the arm's mean); value, low, high (of the difference to the arm before,
        over the same scans; missing for the first).
    """
    parts = dict(tuple(scans.groupby("arm")))
    rows = []
    for place, (change, arm) in enumerate(steps):
        row = {"change": change, "arm": arm, "dice": parts[arm].dice.mean()}
        if place:
            effect = difference(parts[arm], parts[steps[place - 1][1]])
            row |= {name: getattr(effect, name) for name in ("value", "low", "high")}
        rows.append(row)
    return pd.DataFrame(rows, columns=["change", "arm", "dice", "value", "low", "high"])


def verdicts(effects: Mapping[str, Effect]) -> pd.DataFrame:
    """One row per claim: what it says, the verdict, the effect, and the rule.

    Parameters
    ----------
    effects : mapping of a claim's key to its Effect
        Claims without an effect are shown as not yet tested.

    Returns
    -------
    DataFrame
        claim, statement, verdict, effect (the next five, for people), value, low, high,
        subjects, seeds, rule, comparison, margin.
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
