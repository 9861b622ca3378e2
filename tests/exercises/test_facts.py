"""The accepted answers are computed again, each in a way of its own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import nbformat
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import trees
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logit
from scipy.stats import binom
from sklearn.metrics import f1_score  # the Dice of two sets
from torch import nn
from torch.nn.functional import avg_pool2d, relu

import atlaslib
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import GRID, brain_mask
from atlaslib.evaluation.intervals import Effect, contrast
from atlaslib.evaluation.metrics import bootstrap_mean
from atlaslib.evaluation.starter_code import jpeg_mask
from atlaslib.exercises.questions import close, exercises
from atlaslib.files import shipped
from atlaslib.models.resnet import Unit
from atlaslib.paper import claims, judging, sweep

ROOT = Path(__file__).resolve().parent.parent.parent
NUMBERS = {number: each for number, each in exercises().items() if "options" not in each}
CHOICES = {number: each for number, each in exercises().items() if "options" in each}
# nothing to compute
ARGUED = {
    "P.2", "1.4", "5.2", "5.4", "6.3", "6.4", "8.1", "8.3", "8.4", "9.1", "9.3", "10.2",
    "H.2", "H.3",
}  # fmt: skip


def parameters(layer: nn.Module) -> int:
    return sum(each.numel() for each in layer.parameters())


def dropped() -> int:
    return np.prod(GRID) - to_slices(np.ones(GRID, np.uint8)).sum()


def levels() -> float:
    darkest, brightest = np.interp([200, 500], [0, 2000], [0, 255])
    return brightest - darkest


def moved_square() -> float:
    square = np.zeros((9, 9), int)
    square[3:6, 3:6] = 1
    return f1_score(square.ravel(), np.roll(square, 1, axis=1).ravel())


def best_constant(weight: float, q: float) -> float:
    """The constant with the lowest cross entropy, by search."""
    loss = lambda p: -weight * q * np.log(p) - (1 - q) * np.log1p(-p)  # noqa: E731
    options = {"xatol": 1e-9}
    return minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded", options=options).x


def empty_slices() -> float:
    truth = np.zeros((8, 5), int)
    truth[:2, 2] = 1  # a quarter of the slices show lesion
    nothing = np.zeros(5, int)
    return np.mean([f1_score(each, nothing, zero_division=1) for each in truth])


def reach() -> int:
    """Columns of the input on which an output of the unit's two convolutions depends."""
    unit = Unit(4, 4).eval()
    x = torch.randn(1, 4, 15, 15, requires_grad=True)
    unit.conv2(unit.norm2(unit.conv1(x)))[0, 0, 7, 7].backward()
    return int((x.grad[0].abs().sum((0, 1)) > 0).sum())


def shortcut_columns() -> int:
    x = torch.zeros(1, 1, 232, 196)
    for _ in range(2):  # the second and the third group
        x = nn.Conv2d(1, 1, 3, stride=2, padding=1)(x)
    return avg_pool2d(x, 2).shape[-1]


def gradient_of_a_layer() -> float:
    """The mean square of the gradient in front of a ReLU and a layer, as a share of that behind."""
    ratios = []
    for _ in range(3000):
        x, behind = torch.randn(16, requires_grad=True), torch.randn(16)
        nn.Linear(16, 16)(relu(x)).backward(behind)
        ratios.append((x.grad.square().mean() / behind.square().mean()).item())
    return float(np.mean(ratios))


def normalised_growth() -> float:
    x = torch.randn(2000, 3)
    norm = nn.BatchNorm1d(3)
    return float((norm(10 * x).std() / norm(x).std()).detach())


def equal_passes() -> int:
    steps = lambda batch, passes: passes * 5000 // batch  # noqa: E731
    return next(n for n in range(100) if steps(100, n) == steps(50, 10))


def memory() -> float:
    return np.polyval(np.polyfit([8, 16], [300, 540], 1), 50)


def pooled() -> float:
    """A pixel for each mL."""
    truth, found = np.zeros((2, 3, 100), int)
    for row, (volume, predicted) in enumerate([(100, 80), (10, 5), (1, 0)]):
        truth[row, :volume], found[row, :predicted] = 1, 1
    return f1_score(truth.ravel(), found.ravel())


def perfect_mask() -> float:
    pixels = np.arange(200)
    return f1_score(pixels < 125, pixels < 49)


def with_neighbour() -> float:
    chance = {"training": 0.3, "development": 0.7}
    pairs = itertools.product(chance, repeat=2)
    return 100 * sum(chance[a] * chance[b] for a, b in pairs if "training" in (a, b))


def shift_of_logit() -> float:
    return logit(best_constant(5, 0.1)) - logit(best_constant(1, 0.1))


def known_people() -> pd.DataFrame:
    """The scans of the protocol's test people from the scanners that were trained on."""
    scans = sweep.read_table(shipped("results") / "quick", "scans")
    return scans[scans.people == "known"]


COMPUTED: dict[str, Callable[[], float]] = {
    "1.2": dropped,
    "1.3": levels,
    "2.1": lambda: parameters(nn.Conv2d(128, 128, 3, groups=2)),
    "2.2": moved_square,
    "2.3": lambda: brentq(lambda weight: best_constant(weight, 1 / 250) - 0.5, 10, 1000),
    "2.4": empty_slices,
    "3.1": reach,
    "3.2": shortcut_columns,
    "3.3": lambda: parameters(nn.Conv2d(64, 1, 1)),
    "3.4": gradient_of_a_layer,
    "4.1": normalised_growth,
    "4.2": equal_passes,
    "4.3": lambda: np.interp(50, [0, 100], [0, 0.001]),
    "4.4": memory,
    "5.1": pooled,
    "6.1": perfect_mask,
    "6.2": with_neighbour,
    "7.1": lambda: judging.effects("quick", known_people())["C1"].low,
    "7.3": lambda: binom(11, 0.05 / 2).mean(),
    "9.2": shift_of_logit,
}


def chosen(number: str) -> str:
    """The text of the accepted answer."""
    choice = CHOICES[number]
    return choice["options"]["abcdefgh".index(choice["answer"])]["text"]


def test_every_answer_is_computed_or_argued() -> None:
    assert set(COMPUTED) == set(NUMBERS)
    here = {"P.1", "P.3", "1.1", "5.3", "7.2", "8.2", "10.1", "10.3", "H.1"}
    assert here | ARGUED == set(CHOICES)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_what_the_computation_gives(number: str) -> None:
    torch.manual_seed(0)
    exercise = NUMBERS[number]
    assert close(COMPUTED[number](), exercise["answer"], exercise["tolerance"])


def test_none_of_the_cropped_voxels_is_brain() -> None:
    brain = brain_mask()
    assert to_slices(brain).sum() == brain.sum()


def test_where_the_voxel_lies(cohort: atlaslib.Cohort) -> None:
    x, *_ = nib.affines.apply_affine(nib.load(cohort[0].t1).affine, (130, 100, 90))
    marked = np.zeros(GRID, bool)
    marked[130, 100, 90] = True
    ((_, row, _),) = np.argwhere(to_slices(marked))
    side = "right" if x > 0 else "left"  # RAS: x grows towards the patient's right
    assert chosen("1.1") == f"in the {side} hemisphere, in row {row} of its slice"


def test_the_gradient_fades_in_the_plain_stack() -> None:
    """The chapter's own stack, at 40 layers and at 4."""
    cells = nbformat.read(ROOT / "book" / "03_resnet.ipynb", 4).cells
    (source,) = (cell.source for cell in cells if "def train_stack" in cell.source)
    space = {"torch": torch, "nn": nn, "F": torch.nn.functional}
    exec(source, space)
    final = {4: space["train_stack"](0, depth=4)[-1], 40: space["train_stack"](0, steps=50)[-1]}
    variance = torch.sin(3 * torch.linspace(-1, 1, 64)).var(correction=0).item()
    assert final[4] < 0.01
    assert final[40] == pytest.approx(variance, abs=0.02)
    assert round(variance, 2) == 0.52

    def first_gradient(depth: int) -> float:
        torch.manual_seed(0)
        x = torch.linspace(-1, 1, 64)[:, None]
        first, layers = nn.Linear(1, 16), [nn.Linear(16, 16) for _ in range(depth)]
        h = first(x)
        for layer in layers:
            h = layer(relu(h))
        (h.sum(1) - torch.sin(3 * x[:, 0])).square().mean().backward()
        return float(first.weight.grad.norm())

    assert first_gradient(40) < 1e-10 < 1e-4 < first_gradient(4)


def test_verdicts_with_margins_of_another_size() -> None:
    (similar,) = (claim for claim in claims.CLAIMS if claim.key == "C2")
    effect = Effect(0.04, 0.01, 0.07, subjects=100, seeds=12)
    margins = (0.1, 0.05, 0.005)
    verdicts = [dataclasses.replace(similar, margin=each).verdict(effect) for each in margins]
    assert chosen("P.1") == ", ".join(verdicts)


def test_few_subjects_make_the_bootstrap_too_narrow() -> None:
    random = np.random.default_rng(0)

    def misses(subjects: int) -> float:
        """How often an interval of 95 % does not contain the true mean, 0."""
        intervals = (bootstrap_mean(random.normal(size=subjects)) for _ in range(400))
        return np.mean([not low <= 0 <= high for _, low, high in intervals])

    assert misses(3) > 0.15 > 0.09 > misses(40)
    assert len(set(bootstrap_mean([0.3]))) == 1  # no width at all
    assert chosen("P.3").endswith("the interval is narrower than it should be.")


def test_more_people_make_the_interval_narrower_than_more_trainings_do() -> None:
    scans = known_people()
    scans = scans[scans.arm == "baseline"]
    kept = {name: sorted(scans[name].unique())[::2] for name in ("seed", "subject")}

    def width(part: pd.DataFrame) -> float:
        interval = contrast(part, {"baseline": 1.0})
        return interval.high - interval.low

    fewer = {name: scans[scans[name].isin(values)] for name, values in kept.items()}
    assert (
        width(fewer["seed"]) < 1.05 * width(scans) < 1.25 * width(scans) < width(fewer["subject"])
    )
    assert chosen("7.2") == "twice as many test people"


def test_a_stricter_rule_finds_fewer_lesions() -> None:
    table = pd.read_csv(shipped("results") / "heads.csv")
    lesions = table[table.kind == "lesion"]
    found = lesions.intersection_ml > 0
    half = lesions.intersection_ml >= lesions.volume_ml / 2
    assert not (half & ~found).any()
    assert half.sum() < found.sum()
    assert chosen("H.1") == "found, downwards"


def test_two_scans_of_a_person_make_an_interval_over_scans_too_narrow() -> None:
    dice = np.random.default_rng(0).uniform(size=40)
    twice, subject = np.repeat(dice, 2), np.repeat(np.arange(40), 2)
    width = lambda found: found[2] - found[1]  # noqa: E731
    by_scan, by_subject = bootstrap_mean(twice), bootstrap_mean(twice, subject)
    assert width(by_scan) < 0.85 * width(by_subject)
    assert width(by_subject) == pytest.approx(width(bootstrap_mean(dice)), rel=0.1)
    assert chosen("5.3").startswith("the one over scans")


def test_a_perfect_mask_of_a_small_lesion_scores_less() -> None:
    y, x = np.mgrid[:232, :196]
    scores = []
    for radius in (3, 9, 27):
        disc = (y - 115) ** 2 + (x - 99) ** 2 <= radius**2
        scores.append(f1_score(jpeg_mask([disc]).ravel() > 0, disc.ravel()))
    assert scores[0] < scores[1] < scores[2]
    assert chosen("8.2") == "small ones"


def test_two_parts_of_release_1_2_are_one_cohort(tmp_path: Path) -> None:
    folder = trees.release_1_2(tmp_path).rename(tmp_path / "ATLAS")
    cohort, part = (atlaslib.load_cohort(folder / name) for name in ("", "standard_part1"))
    assert "1.2" in cohort.source
    assert 0 < len(part) < len(cohort)
    assert "release 1.2, both parts" in chosen("10.1")


def test_a_scan_in_the_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "Site2" / "031999" / "t01"
    for name in ("t1w_deface", "LesionSmooth"):
        trees.write(wrong / f"031998_{name}_stx.nii.gz", "t1" if name[0] == "t" else "mask")
    with pytest.raises(atlaslib.DataError, match="031998.*031999"):
        atlaslib.load_cohort(tmp_path)
    assert chosen("10.3").startswith("It refuses")
