"""Effects that were put into made-up tables are found in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlaslib.paper import analysis
from atlaslib.paper.protocol import DECODERS, ENCODERS, cell

ENCODER = dict(zip(ENCODERS, (0.0, 0.05, 0.08), strict=True))
DECODER = dict(zip(DECODERS, (0.4, 0.35, 0.3, 0.1), strict=True))


@pytest.fixture(scope="module")
def scans():
    """Additive effects, but for .06 more where 20 units meet the vector; 40 people, 6 seeds."""
    rng = np.random.default_rng(0)
    people = rng.normal(0, 0.1, 40)
    rows = [
        (cell(encoder, decoder), seed, f"s{n}", ENCODER[encoder] + DECODER[decoder] + person
         + 0.06 * ((encoder, decoder) == ("20 units", "vector")) + rng.normal(0, 0.01))
        for encoder in ENCODERS for decoder in DECODERS for seed in range(6)
        for n, person in enumerate(people)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "seed", "subject", "dice"])


def test_main_effects_are_averages_over_the_other_factor(scans):
    table = analysis.main_effects(scans).set_index("change")
    found = table.value
    assert found["6 convolutions to 6 convolutions, norm"] == pytest.approx(0.05, abs=0.003)
    assert found["6 convolutions, norm to 20 units"] == pytest.approx(0.03 + 0.015, abs=0.003)
    assert found["U-Net to no skips"] == pytest.approx(-0.05, abs=0.003)
    assert found["map to vector"] == pytest.approx(-0.2 + 0.02, abs=0.003)
    assert (table.high - table.low).max() < 0.01  # people differ by far more, but are paired
    assert (table.low < table.value).all()


def test_interactions_are_what_the_main_effects_leave(scans):
    table = analysis.interactions(scans).set_index(["encoder", "decoder"])
    assert table.value["20 units", "vector"] == pytest.approx(0.06 * 2 / 3 * 3 / 4, abs=0.003)
    assert table.value["6 convolutions", "vector"] == pytest.approx(-0.06 / 3 * 3 / 4, abs=0.003)
    np.testing.assert_allclose(table.value.groupby("encoder").sum(), 0, atol=1e-12)
    np.testing.assert_allclose(table.value.groupby("decoder").sum(), 0, atol=1e-12)


def test_means_of_arms_count_the_collapsed(scans):
    lost = scans.dice.where((scans.arm != "resnet") | (scans.seed != 3), 0.0)
    table = analysis.arm_means(scans.assign(dice=lost), ["baseline", "resnet"]).set_index("arm")
    assert table.collapsed.tolist() == [0, 1]
    single = analysis.arm_means(scans[scans.seed == 0], ["baseline"]).iloc[0]
    assert single.value == pytest.approx(
        scans[scans.seed == 0].dice[scans.arm == "baseline"].mean()
    )
    assert np.isnan([single.low, single.high]).all()
    assert table.seeds.tolist() == [6, 6]
    assert table.value["baseline"] == pytest.approx(scans[scans.arm == "baseline"].dice.mean())
    assert (
        table.high["resnet"] - table.low["resnet"] > table.high["baseline"] - table.low["baseline"]
    )


def leaky(gain: float) -> pd.DataFrame:
    """Six cohorts of five people; a network scores its own people `gain` higher."""
    rng = np.random.default_rng(1)
    hard = rng.random((6, 5))
    networks = rng.normal(0, 0.2, 6)  # a better network is better on both, and must not count
    rows = []
    for seed in range(6):
        for people, cohort in (("own", seed), ("other", (seed + 1) % 6)):
            bonus = gain if people == "own" else 0.0
            rows += [("net", seed, people, f"c{cohort}p{n}", "t01", value + networks[seed] + bonus,
                      1.0) for n, value in enumerate(hard[cohort])]  # fmt: skip
            # no lesion in the scored slices: no Dice, or 0 if a network marked something there
            rows.append(
                ("net", seed, people, f"c{cohort}", "t01", 0.0 if seed % 2 else np.nan, 0.0)
            )
    columns = ["arm", "seed", "people", "subject", "session", "dice", "volume_ml"]
    return pd.DataFrame(rows, columns=columns)


def test_the_leak_is_the_gain_on_ones_own_people():
    assert analysis.leak(leaky(0.07), "net").value == pytest.approx(0.07)
    nothing = analysis.leak(leaky(0.0), "net")
    assert nothing.low < 0 < nothing.high
    with pytest.raises(ValueError, match="not the same people"):
        analysis.leak(leaky(0.0).iloc[1:], "net")


def test_a_ranking_is_followed_pass_by_pass():
    rows = [
        {"arm": arm, "seed": seed, "epoch": epoch,
         "validation_dice": 0.1 * seed + (0.01 * (seed % 2) + 0.02 * (epoch - 2)) * (arm == "a")}
        for arm in ("a", "b", "c") for seed in range(4) for epoch in (1, 2, 3)
    ]  # fmt: skip
    table = analysis.ranking(pd.DataFrame(rows), "a", "b")
    assert table.passes.tolist() == [1, 2, 3]
    np.testing.assert_allclose(table.value, [-0.015, 0.005, 0.025])
    assert table.high[0] < 0 < table.low[2]
