"""Logits and masks in the geometry of the input."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from volumes import save

from atlaslib import (
    DataError,
    SliceDataset,
    build_model,
    predict,
    recipe,
)
from atlaslib.data.model_input import to_full_resolution
from atlaslib.data.slices import to_slices
from atlaslib.data.volumes import near_brain, read_scan
from atlaslib.evaluation.inference import (
    is_lesion,
    probabilities,
    slice_logits,
    slices_per_pass,
)
from atlaslib.models.zero import Zero


def test_chosen_slices_match_the_whole_scan_and_a_mirrored_scan_is_mirrored_back(cohort):
    chosen = recipe("residual_unet", "smoke", width=4)
    torch.manual_seed(0)
    model = build_model("residual_unet", **chosen.model_options()).eval()
    images, _ = SliceDataset(cohort, progress=False).scan(0)
    whole = slice_logits(model, images, chosen)
    torch.testing.assert_close(slice_logits(model, images, chosen, [90, 3]), whole[[90, 3]])
    full = dataclasses.replace(chosen, window=False, downsample=1)
    some = [90, 91]
    # the template's brain is not symmetric
    straight = slice_logits(model, images, full, some, brain_only=False)
    mirrored = slice_logits(model, images.flip(2), full, some, brain_only=False)
    torch.testing.assert_close(mirrored.flip(2), straight, atol=1e-4, rtol=1e-3)


def test_prediction_overlays_a_scan_in_any_orientation(run, cohort, tmp_path):
    scan = cohort[0]
    straight = predict(run, scan)
    image = nib.load(scan.t1)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("PIL"))
    path = save(tmp_path / "turned.nii.gz", np.asarray(turned.dataobj), turned.affine)
    mask = predict(run, path)
    assert mask.shape == nib.load(path).shape
    np.testing.assert_array_equal(mask.affine, turned.affine)
    back = nib.as_closest_canonical(mask)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(straight.dataobj))
    assert mask.get_data_dtype() == np.uint8


def test_file_format_is_recognised_by_content_not_by_name(run, cohort, tmp_path):
    """People rename .nii.gz to .nii, and the other way round."""
    path = tmp_path / "renamed.nii"
    path.write_bytes(cohort[0].t1.read_bytes())
    mask, expected = predict(run, path), predict(run, cohort[0])
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(expected.dataobj))


def test_prediction_finds_the_dark_box(run, cohort):
    p = probabilities(run, cohort[5])
    true = to_slices(read_scan(cohort[5]).mask)
    assert p.shape == (189, 232, 196)
    assert p[true].mean() > 2 * p[~true].mean()


@pytest.mark.parametrize("window", [True, False])
def test_nothing_is_marked_where_no_lesion_can_be(window, cohort):
    chosen = recipe("zero", "smoke", window=window)
    images, _ = SliceDataset(cohort, progress=False).scan(0)
    ones = torch.ones(189, 1, *chosen.input_size())
    seen = to_full_resolution(ones, chosen).squeeze(1).numpy() > 0
    near = seen & to_slices(near_brain())
    for brain_only, marked in ((True, near), (False, seen)):
        logits = slice_logits(Zero(0.9), images, chosen, brain_only=brain_only).numpy()
        np.testing.assert_array_equal(is_lesion(logits), marked)


def test_probabilities_are_those_of_the_mni_grid_alone(run, tmp_path):
    path = save(tmp_path / "native.nii.gz", np.ones((30, 31, 32), np.uint8))
    with pytest.raises(DataError, match="native.nii.gz: expected 197 x 233 x 189"):
        probabilities(run, path)
    with pytest.raises(DataError, match="native.nii.gz: "):  # no head that could be registered
        predict(run, path)


def test_a_gpu_segments_whole_volumes_if_the_training_batch_shows_that_they_fit():
    gpu, paper = torch.device("cuda"), recipe("baseline", "paper")
    assert slices_per_pass(gpu, paper) == 189
    assert slices_per_pass(gpu, recipe("baseline", "paper", micro_batch=8)) == 27
    assert slices_per_pass(torch.device("cpu"), paper) == 27
