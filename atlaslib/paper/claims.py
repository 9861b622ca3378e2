"""The paper's claims as testable statements, each with a rule that decides its verdict.

The paper gives no margins, so the ones here are ours. A verdict is a rule applied to an interval.
With fewer than five seeds it is only a hint: nothing is confirmed or refuted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from atlaslib.evaluation.intervals import FEWEST, Effect
from atlaslib.paper.protocol import MARGIN

SEEDS = 5  # from this many on, a verdict is more than a hint
_WORDS = {True: ("confirmed", "refuted"), False: ("points to yes", "points to no")}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper and the rule by which it is judged."""

    key: str
    section: str  # of the paper
    statement: str
    quantity: str = ""  # what is measured; nothing if there is no rule
    # "above" or "below" the margin; "within" plus or minus the margin
    comparison: str = "above"
    margin: float = 0.0
    arms: tuple[str, str] | None = None  # first minus second; None: no arms are compared
    column: str = "dice"
    relative: bool = False  # as a share of the second arm's mean

    @property
    def rule(self) -> str:
        """The condition for a yes, as worded in the table of verdicts; empty if there is none."""
        if not self.quantity:
            return ""
        sign = "± " if self.comparison == "within" else ""
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
        }[self.comparison]
        words = _WORDS[effect.seeds >= SEEDS]
        return words[0] if yes else words[1] if no else "undecided"


#: In the paper's order. Those with arms are judged by ``data/results/protocol.md``, C4a, C4b and
#: C5b by single trainings in chapter 4, the others not at all.
#:
#: :meta hide-value:
CLAIMS = (
    Claim("C1", "4", "The baseline learns to segment lesions.",
          "Dice of baseline minus Dice of zero", "above", 0.1, ("baseline", "zero")),
    Claim("C2", "6, 7", "The ResNet ends with a similar loss.",
          "loss of ResNet minus baseline, plain cross entropy, as a share of the baseline's",
          "within", 0.1, ("resnet, plain loss", "baseline, plain loss"), "loss", relative=True),
    Claim("C3", "6, 7", "The ResNet's Dice is lower than the baseline's.",
          "Dice of baseline minus Dice of ResNet, weighted loss", "above", MARGIN,
          ("baseline", "resnet")),
    Claim("C4a", "5.3", "A learning rate of 0.0001 serves the ResNet better than 0.001.",
          "Dice at 0.0001 minus Dice at 0.001"),
    Claim("C4b", "5.3", "And better than 0.00001.",
          "Dice at 0.0001 minus Dice at 0.00001"),
    Claim("C5a", "5.3", "Halving the mini-batch makes a step much cheaper."),
    Claim("C5b", "5.3", "Halving the mini-batch improves the ResNet.",
          "Dice at half the batch minus Dice at the whole"),
    Claim("C6a", "7", "Depth does not help.",
          "Dice with 20 units minus Dice with 4, vector", "below", MARGIN,
          ("resnet", "4 units, vector")),
    Claim("C6b", "7", "Depth does not help, with skip connections.",
          "Dice with 20 units minus Dice with 4, U-Net decoder", "below", MARGIN,
          ("20 units, U-Net", "4 units, U-Net")),
    Claim("C7a", "7", "The number of hidden layers is a lever."),
    Claim("C7b", "7", "The neurons of the last layer are a lever."),
)  # fmt: skip


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
