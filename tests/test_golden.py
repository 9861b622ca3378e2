"""The stored golden values hold, and they notice when a change alters a number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import golden
import pytest

import atlaslib
from atlaslib.runs import ENGINE
from atlaslib.synthetic.cohort import GENERATOR

PACKAGE = Path(atlaslib.__file__).parent
STORED = json.loads(golden.STORED.read_text())


@pytest.mark.parametrize("part", golden.PARTS)
def test_the_numbers_are_those_of_this_version(part):
    """Changed on purpose? Raise ENGINE or GENERATOR, then run `python tests/golden.py --renew`."""
    assert golden.differences(STORED[part], golden.PARTS[part](), part) == []


def test_the_stored_values_are_of_this_version():
    assert (STORED["engine"], STORED["generator"]) == (ENGINE, GENERATOR)


MUTATIONS = {
    "leaky slope": ("training", "models/resnet.py", "SLOPE = 0.1", "SLOPE = 0.2"),
    "padding": ("training", "models/decoders.py", "[..., :-1, :-1]", "[..., 1:, 1:]"),
    "order of the sampler": (
        "training", "training/batches.py", "return generator.permutation(np.concatenate",
        "return np.sort(np.concatenate",
    ),
    "clipping": (
        "training", "training/step.py", "self.recipe.clip_norm)", "0.1 * self.recipe.clip_norm)",
    ),
    "instance normalisation": (
        "training", "models/residual_unet.py", "self.eps)", "1e-3)",
    ),
    "distance of context": (
        "training", "data/model_input.py", "CONTEXT_GAP = 3", "CONTEXT_GAP = 2",
    ),
    "default of the clip norm": ("recipes", "recipes.py", "setting(5.0", "setting(4.0"),
    "rule of Dice": (
        "scoring", "evaluation/metrics.py", "2 * both / total", "both / (total - both)",
    ),
    "weight of the loss": (
        "scoring", "evaluation/scoring.py", "pos_weight * missed + wrong",
        "pos_weight * (missed + wrong)",
    ),
    "test-time augmentation": (
        "scoring", "evaluation/inference.py", ".float().flip(3)) / 2", ".float()) / 2",
    ),
    "limit to the brain": (
        "scoring", "evaluation/inference.py", "if brain_only:", "if not brain_only:",
    ),
    "percentile": (
        "cohort", "data/slices.py", "PERCENTILES = (1.0, 99.0)", "PERCENTILES = (2.0, 98.0)",
    ),
    "borders between tissues": (
        "cohort", "synthetic/head.py", "np.float32(2.2)", "np.float32(2.0)",
    ),
    "outline of a rater": (
        "cohort", "synthetic/raters.py", "WAVES = 1.25", "WAVES = 1.0",
    ),
    "rim of a lesion": (
        "cohort", "synthetic/appearance.py", "radius * 0.75 + np.float32(0.6)",
        "radius * 0.70 + np.float32(0.6)",
    ),
    "blur of a scanner": (
        "cohort", "synthetic/scanner.py", "Scanner(3.0, 0.65,", "Scanner(3.0, 0.70,",
    ),
    "noise": (
        "cohort", "synthetic/scanner.py", "sigma = site.noise *", "sigma = 1.05 * site.noise *",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_noticed(name, tmp_path):
    """Ten seconds each: a program of its own imports a copy of the library with one change."""
    part, file, old, new = MUTATIONS[name]
    shutil.copytree(PACKAGE, tmp_path / "atlaslib")
    source = tmp_path / "atlaslib" / file
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))
    run = subprocess.run(
        [sys.executable, golden.__file__, part],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    assert f"{part} " in run.stdout
