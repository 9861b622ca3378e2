"""The claims of ``data/results/protocol.md``, and their effects once all trainings are in."""

from __future__ import annotations

import pandas as pd

from atlaslib.evaluation.intervals import Effect, contrast
from atlaslib.paper import claims
from atlaslib.paper.claims import Claim
from atlaslib.paper.protocol import ENCODERS, FOLDS, Choice, arms

#: Judged at 98.3 %, so that the three together have 95 %.
PRIMARY = ("C2", "C3", "C6b")
#: The claims of the protocol, the primary ones first.
#:
#: :meta hide-value:
CLAIMS = sorted(
    (claim for claim in claims.CLAIMS if claim.arms), key=lambda claim: claim.key not in PRIMARY
)


def trainings(profile: str, scans: pd.DataFrame) -> pd.DataFrame:
    """How many trainings of each arm the protocol asks for, and how many are in the table.

    Parameters
    ----------
    profile : str
    scans : DataFrame
        arm, seed and people, as of :func:`atlaslib.paper.sweep.read_table`; may be empty.

    Returns
    -------
    DataFrame
        seeds, done and complete, indexed by arm; the primary arms first.
    """
    any_choice = Choice(dict.fromkeys(ENCODERS, 0.001), 1, ())  # the numbers do not depend on it
    in_folds = len(scans) > 0 and (scans.people == "fold").all()
    done = scans.groupby("arm").seed.nunique() if len(scans) else pd.Series(dtype=int)
    rows = [
        (arm, FOLDS if in_folds else seeds, done.get(arm, 0))
        for arm, (chosen, seeds) in arms(profile, any_choice).items()
        if not (in_folds and chosen.split == "slice")
    ]
    table = pd.DataFrame(rows, columns=["arm", "seeds", "done"]).set_index("arm")
    return table.assign(complete=table.done >= table.seeds)


def weights(claim: Claim) -> dict[str, float]:
    """The arms whose weighted sum is the claim's effect; the Dice of zero, which marks none, is 0.

    Raises
    ------
    ValueError
        If the claim compares no arms.
    """
    if claim.arms is None:
        raise ValueError(f"{claim.key} compares no arms")
    first, second = claim.arms
    return {first: 1.0} if second == "zero" else {first: 1.0, second: -1.0}


def effects(profile: str, scans: pd.DataFrame) -> dict[str, Effect]:
    """The effect of each claim whose arms are complete: nothing is judged before.

    Parameters
    ----------
    profile : str
    scans : DataFrame
        arm, seed, people, subject, dice, loss, as of :func:`atlaslib.paper.sweep.read_table`; may
        be empty. Those of unseen scanners do not count.
    """
    if scans.empty:
        return {}
    scans = scans[scans.people.isin(["known", "fold"])]
    found = {}
    people = scans.subject.nunique()
    counted = trainings(profile, scans)
    for claim in CLAIMS:
        needed = weights(claim)
        if not counted.complete[list(needed)].all():
            continue
        level = 1 - 0.05 / len(PRIMARY) if claim.key in PRIMARY else 0.95
        relative = list(needed)[1] if claim.relative else None
        interval = contrast(scans, needed, claim.column, level, relative)
        found[claim.key] = Effect(*interval, people, int(counted.done[list(needed)].min()))
    return found
