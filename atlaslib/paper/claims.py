"""The paper's claims as testable statements, each with a rule that decides its verdict.

The paper gives no margins, so the ones here are ours. A verdict is a rule applied to an interval.
With fewer than five seeds it is only a hint: nothing is confirmed or refuted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from atlaslib.evaluation.intervals import FEWEST, Effect, paired
from atlaslib.evaluation.metrics import bootstrap_mean

SEEDS = 5  # from this many on, a verdict is more than a hint
_WORDS = {True: ("confirmed", "refuted"), False: ("points to yes", "points to no")}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper and the rule by which it is judged."""

    key: str
    section: str  # of the paper
    statement: str
    quantity: str  # what is measured
    # "above" or "below" the margin; "within" or "beyond" plus or minus the margin
    comparison: str = "above"
    margin: float = 0.0
    arms: tuple[str, str] | None = None  # first minus second; None: no arms are compared
    column: str = "dice"
    relative: bool = False  # as a share of the second arm's mean

    @property
    def rule(self) -> str:
        """The condition for a yes, as worded in the table of verdicts."""
        sign = "± " if self.comparison in ("within", "beyond") else ""
        return f"{self.quantity}: interval {self.comparison} {sign}{self.margin:g}"

    def verdict(self, effect: Effect | None) -> str:
        """The verdict on this claim, given its effect.

        "confirmed" if the whole interval satisfies the rule, "refuted" if the whole interval
        violates it, "undecided" otherwise or with fewer than eight subjects. With fewer than five
        seeds the first two become "points to yes" and "points to no".
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

    The interval is a bootstrap over subjects or, if the tables hold several seeds, over seeds and
    the subjects tested with each. Where all seeds test the same subjects, a resampled subject
    counts for all of them: five trainings tested on 24 people do not make 120 people.

    Parameters
    ----------
    first, second : DataFrame
        From :func:`atlaslib.evaluate` on the same scans; or several such tables, concatenated,
        with a column seed that holds the same seeds in both.
    column : str
    relative : bool
        Divide by the mean of `second`.

    Raises
    ------
    ValueError
        If the tables do not hold the same scans.
    """
    pairs = paired(first, second, column, relative)
    mean, low, high = _interval(pairs, "change")
    count = int(pairs.seed.nunique()) if "seed" in pairs else 1
    return Effect(mean, low, high, int(pairs.subject.nunique()), count)


def _interval(table: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval.

    Where each seed has its own test subjects, seeds are resampled and then the subjects of each.
    Where all seeds test the same subjects, that would count every subject once per seed, so seeds
    and subjects are resampled independently.
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
    """The effect of each claim whose arms are in the table.

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


def arm_means(scans: pd.DataFrame, arms: Iterable[str], column: str = "dice") -> pd.DataFrame:
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


def verdicts(effects: Mapping[str, Effect], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """One row per claim: what it says, the verdict, the effect, and the rule.

    Parameters
    ----------
    effects : mapping from a claim's key to its Effect
        Claims without an effect are shown as not yet tested.
    claims : sequence of Claim

    Returns
    -------
    DataFrame
        claim, statement, verdict, effect (value and interval as text), value, low, high,
        subjects, seeds, rule, comparison, margin.
    """
    rows = []
    for claim in claims:
        effect = effects.get(claim.key)
        numbers = effect if effect is not None else Effect(np.nan, np.nan, np.nan)
        text = {"claim": claim.key, "statement": claim.statement, "verdict": claim.verdict(effect)}
        text["effect"] = "" if effect is None else str(effect)
        rule = {"rule": claim.rule, "comparison": claim.comparison, "margin": claim.margin}
        rows.append(text | numbers._asdict() | rule)
    return pd.DataFrame(rows).astype({"subjects": "Int64"})
