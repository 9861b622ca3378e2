"""What the protocol's tables say: the factorial, the leak, and from which pass on a ranking holds.

Tables are those of :func:`atlaslib.paper.sweep.read_table`; results have 95 % intervals.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from atlaslib.evaluation.intervals import Interval, contrast, independent
from atlaslib.paper.protocol import COLLAPSED, DECODERS, ENCODERS, cell


def arm_means(scans: pd.DataFrame, arms: Iterable[str], column: str = "dice") -> pd.DataFrame:
    """Mean of each arm over seeds and people: arm, seeds, value, low, high, collapsed trainings.

    An arm with a single seed has no interval.

    Parameters
    ----------
    scans : DataFrame
        arm, seed, subject, dice and `column`: one row per scan and training.
    arms : iterable of str
    column : str
    """
    rows = []
    for arm in arms:
        by_seed = scans[scans.arm == arm].groupby("seed").dice.mean()
        lost = int((by_seed < COLLAPSED).sum())
        if len(by_seed) > 1:
            interval = contrast(scans, {arm: 1}, column)
        else:
            interval = Interval(scans[scans.arm == arm][column].mean(), np.nan, np.nan)
        rows.append({"arm": arm, "seeds": len(by_seed), **interval._asdict(), "collapsed": lost})
    return pd.DataFrame(rows)


def main_effects(scans: pd.DataFrame) -> pd.DataFrame:
    """What each level of a factor changes in Dice, averaged over the levels of the other.

    Returns
    -------
    DataFrame
        factor ("encoder" or "decoder"), change (from one level to the next), value, low, high.
    """
    rows = []
    for factor, levels, others in (
        ("encoder", ENCODERS, DECODERS),
        ("decoder", DECODERS, ENCODERS),
    ):
        for before, after in itertools.pairwise(levels):
            weights = {}
            for other in others:
                for level, sign in ((after, 1), (before, -1)):
                    parts = (level, other) if factor == "encoder" else (other, level)
                    weights[cell(*parts)] = sign / len(others)
            change = f"{before} to {after}"
            rows.append({"factor": factor, "change": change} | contrast(scans, weights)._asdict())
    return pd.DataFrame(rows)


def interactions(scans: pd.DataFrame) -> pd.DataFrame:
    """How far each cell lies from what the two main effects alone would make of it.

    Returns
    -------
    DataFrame
        encoder, decoder, value, low, high.
    """
    rows = []
    for encoder in ENCODERS:
        for decoder in DECODERS:
            weights = {}
            for row in ENCODERS:
                for column in DECODERS:
                    own = (row == encoder) - 1 / len(ENCODERS)
                    weights[cell(row, column)] = own * ((column == decoder) - 1 / len(DECODERS))
            interval = contrast(scans, weights)._asdict()
            rows.append({"encoder": encoder, "decoder": decoder} | interval)
    return pd.DataFrame(rows)


def leak(scans: pd.DataFrame, arm: str) -> Interval:
    """Dice gained on a person's slices by having trained on others of the same person.

    Scans whose scored slices hold no lesion are left out. A network counts for its own people and
    against the next seed's, so that the seeds' gains are not quite independent: if networks differ
    in skill, the interval is wider than it need be.

    Parameters
    ----------
    scans : DataFrame
        With the rows "own" and "other" of an arm that was split by slice.
    arm : str
    """
    part = scans[(scans.arm == arm) & (scans.volume_ml > 0)]
    own, other = (part[part.people == name] for name in ("own", "other"))
    # a network's "other" people are the "own" ones of the next seed, the last one's of the first
    other = other.assign(seed=(other.seed + 1) % part.seed.nunique())
    keys = ["seed", "subject", "session"]
    pairs = own.merge(other, on=keys, suffixes=("", "_other"), validate="one_to_one")
    if not len(pairs) == len(own) == len(other):
        raise ValueError(f"{arm}: not the same people with and without a leak")
    gain = (pairs.dice - pairs.dice_other).groupby([pairs.seed, pairs.subject]).mean()
    return independent(gain.groupby("seed").mean().to_numpy())


def ranking(history: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Validation Dice of one arm minus another after each pass.

    Every seed has validation people of its own, so that the seeds are independent.

    Returns
    -------
    DataFrame
        passes, value, low, high.
    """
    table = history.pivot_table(index=["epoch", "seed"], columns="arm", values="validation_dice")
    change = (table[first] - table[second]).dropna()
    rows = [
        {"passes": passes, **independent(np.asarray(part))._asdict()}
        for passes, part in change.groupby("epoch")
    ]
    return pd.DataFrame(rows)
