"""Predictions in the geometry of the input, and scores against MONAI and by hand."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from volumes import save

from atlaslib import (
    DataError,
    SliceDataset,
    build_model,
    dice,
    evaluate,
    predict,
    recipe,
    summary,
    train,
)
from atlaslib.evaluation import (
    WINDOW,
    at_once,
    counts,
    grow,
    half_precision,
    probabilities,
    rescore,
    score,
    shrink,
    slice_logits,
    with_neighbours,
)
from atlaslib.metrics import dice_by_slice
from atlaslib.slices import to_slices
from atlaslib.volumes import brain_mask, read_scan


@pytest.fixture(scope="module")
def run(cohort):
    return train(
        recipe("baseline", "smoke", epochs=10, width=8, decay=False, flip=False, seed=1),
        cohort,
        progress=False,
    )


def test_scores_by_hand():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 8, 6, generator=rng)
    masks = (torch.rand(3, 8, 6, generator=rng) > 0.7).to(torch.uint8)
    row = score(counts(logits, masks).numpy(), pos_weight=4.0)
    assert row["dice"] == pytest.approx(dice(logits > 0, masks))
    assert row["volume_ml"] == pytest.approx(masks.sum().item() / 1000)
    assert row["dice_per_slice"] == pytest.approx(dice_by_slice(logits > 0, masks))
    target = masks.float()
    plain = F.binary_cross_entropy_with_logits(logits, target)
    heavy = F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(4.0))
    assert row["cross_entropy"] == pytest.approx(plain.item(), rel=1e-5)
    assert row["loss"] == pytest.approx(heavy.item(), rel=1e-5)


def test_slices_can_be_scored_apart():
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 8, 6, generator=rng)
    masks = (torch.rand(4, 8, 6, generator=rng) > 0.7).to(torch.uint8)
    some = score(counts(logits, masks).numpy()[[1, 3]], 1.0)
    alone = score(counts(logits[[1, 3]], masks[[1, 3]]).numpy(), 1.0)
    assert some == pytest.approx(alone)


def test_neighbours_lie_3_mm_apart_and_end_at_the_scan():
    chosen = recipe("residual_unet", "smoke", neighbours=2)
    stacks = with_neighbours(np.array([0, 100, 188, 189 + 4]), chosen)
    assert stacks.tolist() == [
        [0, 0, 0, 3, 6],
        [94, 97, 100, 103, 106],
        [182, 185, 188, 188, 188],
        [189, 190, 193, 196, 199],
    ]


def test_a_chosen_slice_is_segmented_as_among_all_and_mirroring_is_undone(cohort):
    chosen = recipe("residual_unet", "smoke", width=4)
    torch.manual_seed(0)
    model = build_model("residual_unet", **chosen.model_options()).eval()
    images, _ = SliceDataset(cohort, progress=False).scan(0)
    whole = slice_logits(model, images, chosen)
    torch.testing.assert_close(slice_logits(model, images, chosen, [90, 3]), whole[[90, 3]])
    full = dataclasses.replace(chosen, window=False, downsample=1)
    some = [90, 91]
    straight = slice_logits(model, images, full, some)
    mirrored = slice_logits(model, images.flip(2), full, some)
    torch.testing.assert_close(mirrored.flip(2), straight, atol=1e-4, rtol=1e-3)


def test_the_original_score_of_a_perfect_mask_is_below_one(run, cohort):
    table = rescore(run, cohort[:2])
    assert table.perfect_original.between(0.3, 0.99).all()
    assert (table.dice_original <= 1).all()


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_shrink_and_grow_keep_place(factor, window):
    chosen = recipe("baseline", "paper", downsample=factor, window=window)
    image = torch.zeros(1, 1, 232, 196)
    image[..., 100:140, 60:100] = 1
    small = shrink(image, chosen)
    assert small.shape[-2:] == chosen.input_size()
    back = grow(small, chosen)
    assert back.shape == image.shape
    assert dice(back > 0.5, image) > 0.97


def test_window_holds_the_brain():
    rows, columns = to_slices(brain_mask()).any(0).nonzero()
    assert WINDOW[0] < rows.min()
    assert rows.max() < WINDOW[0] + 184
    assert WINDOW[1] < columns.min()
    assert columns.max() < WINDOW[1] + 152


def test_table_agrees_with_the_predicted_mask(run, cohort):
    test = cohort.split()[2]
    row = evaluate(run, test, progress=False).iloc[0]
    mask = to_slices(np.asarray(predict(run, test[0]).dataobj))
    true = to_slices(read_scan(test[0]).mask)
    assert row.predicted_ml == pytest.approx(mask.sum() / 1000)
    assert row.volume_ml == pytest.approx(true.sum() / 1000)
    if mask.any():
        assert row.dice == pytest.approx(dice(mask, true))


def test_prediction_lies_over_a_scan_of_any_orientation(run, cohort, tmp_path):
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


def test_a_scan_is_known_by_its_content_not_by_its_name(run, cohort, tmp_path):
    """People rename .nii.gz to .nii, and the other way round."""
    path = tmp_path / "renamed.nii"
    path.write_bytes(cohort[0].t1.read_bytes())
    mask, expected = predict(run, path), predict(run, cohort[0])
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(expected.dataobj))


def test_prediction_finds_the_dark_box(run, cohort):
    chance = probabilities(run, cohort[5])
    true = to_slices(read_scan(cohort[5]).mask)
    assert chance.shape == (189, 232, 196)
    assert chance[true].mean() > 2 * chance[~true].mean()


def test_predict_refuses_another_grid(run, tmp_path):
    path = save(tmp_path / "native.nii.gz", np.ones((30, 31, 32), np.uint8))
    with pytest.raises(DataError, match="native.nii.gz: expected 197 x 233 x 189"):
        predict(run, path)


def test_summary(run, cohort):
    table = evaluate(run, cohort, progress=False)
    row = summary({"baseline": table}).iloc[0]
    assert (row.scans, row.subjects) == (8, 7)
    assert row.dice == pytest.approx(table.dice.mean())
    assert row.low <= row.dice <= row.high


def test_a_gpu_segments_whole_volumes_if_training_shows_that_it_has_room():
    gpu, paper = torch.device("cuda"), recipe("baseline", "paper")
    assert at_once(gpu, paper) == 189
    assert at_once(gpu, recipe("baseline", "paper", micro_batch=8)) == 27
    assert at_once(torch.device("cpu"), paper) == 27


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_is_for_gpus_that_need_not_emulate_it(monkeypatch, native, dtype):
    """A T4 only emulates it; float16 is what its tensor cores compute with."""

    def supported(including_emulation=True):
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert half_precision(torch.device("cuda")) == dtype
    assert half_precision(torch.device("cpu")) is None
