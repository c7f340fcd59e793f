"""The stages of the recipe, run for real on tiny networks."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_clip, tiny_sam

from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.clip import build_clip
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.models.sam import Sam
from napari_clipsam.models.weights import load_clip, load_sam, save_clip, save_sam
from starter import (
    batches,
    config,
    export,
    loop,
    stage_adapter,
    stage_clip,
    stage_concept_refiner,
    stage_decoder,
    stage_quality,
    stage_refiner,
    stage_sam,
    validate,
)
from starter import concept_windows as concept_windows_module
from starter.batches import BatchMaker, load_store, prefetch
from starter.close_ups import CloseUps, as_shown, collect, draw
from starter.concept_windows import ConceptWindows
from starter.data import Sample
from starter.windows import Windows, place

SIZE = 64


@pytest.fixture
def maker(samples: list[Sample]) -> BatchMaker:
    return BatchMaker(load_store([(1.0, samples)], "cpu"), SIZE, seed=0)


def arguments(out: Path, steps: int, *more: str) -> list[str]:
    return ["--out", str(out), "--device", "cpu", "--steps", str(steps), "--batch", "2", *more]


def curve(out: Path, stage: str, name: str) -> list[float]:
    rows = (out / f"{stage}_curve.csv").read_text().splitlines()
    return [float(row.split(",")[3]) for row in rows if row.split(",")[2] == name]


def test_a_batch_is_padded_like_the_product_pads_a_plane(maker: BatchMaker) -> None:
    batch = maker.draw(12)
    assert batch.pixels.shape == (12, 3, SIZE, SIZE)
    assert batch.valid[:, 0, 0].all()
    padding = ~batch.valid[:, None].expand_as(batch.pixels)
    assert (batch.pixels[padding] == 0).all()
    assert padding.any(), "no crop of twelve had another aspect than the square"
    for crop in range(12):
        rows = [r for r, (c, _) in enumerate(batch.rows) if c == crop]
        assert [batch.rows[r][1] for r in rows] == list(batch.samples[crop].kinds)
        assert (batch.labels[rows][:, ~batch.valid[crop]] == 0).all()


def test_the_same_seed_draws_the_same_batch(samples: list[Sample]) -> None:
    store = load_store([(1.0, samples)], "cpu")
    first, second = (BatchMaker(store, SIZE, seed=5).draw(3) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.labels, second.labels)


def test_objects_are_whole_instances_of_their_row(maker: BatchMaker) -> None:
    batch = maker.draw(6)
    objects = maker.objects(batch, 3)
    assert len(objects.masks) > 0
    for mask, row, image in zip(objects.masks, objects.row, objects.image, strict=True):
        assert batch.rows[int(row)][0] == int(image)
        assert batch.kind(int(row)) != "semantic"
        inside = batch.labels[row][mask.repeat_interleave(2, 0).repeat_interleave(2, 1) == 1]
        assert len(inside.unique()) == 1, "fully covered cells belong to one object"
        assert int(inside[0]) > 0


def test_crowded_maps_give_more_objects_but_not_all() -> None:
    visible = [np.arange(count) for count in (0, 1, 4, 100)]
    given = batches.allotted(visible, 4)
    assert given[:2] == [0, 1]
    assert given[3] > 2 * given[2] >= 2
    assert sum(given) <= 4 * 4
    assert batches.allotted([np.arange(50)] * 3, 4) == [4, 4, 4]
    assert batches.allotted([np.arange(0)] * 2, 4) == [0, 0]


def test_a_crowded_image_weighs_by_all_its_objects(
    tiny: None, monkeypatch: pytest.MonkeyPatch, samples: list[Sample]
) -> None:
    torch.manual_seed(0)
    sam = Sam(config.SAM)
    options = argparse.Namespace(data="", device="cpu")
    alone = []
    for sample in samples[:2]:
        monkeypatch.setattr(validate, "validation_samples", lambda data, s=sample: [s])
        alone.append(validate.prompt_scores(sam, options)["box"])
    counts = [
        int((np.bincount(next(iter(s.concepts.values())).ravel())[1:] >= 20).sum())
        for s in samples[:2]
    ]
    monkeypatch.setattr(validate, "validation_samples", lambda data: samples[:2])
    expected = np.average(alone, weights=counts)
    assert validate.prompt_scores(sam, options)["box"] == pytest.approx(expected)
    monkeypatch.setattr(validate, "_OBJECTS", 2)
    sampled = validate.prompt_scores(sam, options)["box"]
    assert sampled == pytest.approx(expected, abs=0.15)


def test_rare_styles_are_drawn_more_often_than_their_number(samples: list[Sample]) -> None:
    many = [dataclasses.replace(samples[0], source=f"set/common/{i}") for i in range(9)]
    rare = [dataclasses.replace(samples[0], source="set/rare/0")]
    chances = load_store([(1.0, [*many, *rare])], "cpu").chances
    assert chances[-1] == pytest.approx(3 * chances[0])


def test_an_error_while_batches_are_made_reaches_the_training() -> None:
    def broken() -> tuple:
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        next(prefetch(broken, "cpu"))


def test_boxed_cells_leave_what_is_not_certain_out() -> None:
    image = np.full((60, 60, 3), 230, np.uint8)
    yy, xx = np.mgrid[:60, :60]
    marked = (yy - 15) ** 2 + (xx - 15) ** 2 <= 64
    unmarked = (yy - 42) ** 2 + (xx - 42) ** 2 <= 64
    image[marked | unmarked] = (190, 90, 120)
    sample = Sample(
        image,
        {},
        {"red blood cells": "boxes"},
        "blood smear",
        "set/style/0",
        {"red blood cells": np.array([[7.0, 7.0, 24.0, 24.0]])},
        partial=frozenset({"red blood cells"}),
    )
    labels, known = batches._outline_boxes(sample, "red blood cells")
    assert labels[15, 15] == 1
    assert known[15, 15] == 1
    assert labels[42, 42] == 0
    assert known[42, 42] == 0, "a cell that nobody boxed is unknown, not background"
    assert known[55, 5] == 1
    assert labels[55, 5] == 0


def test_absent_pairs_have_no_label_map(maker: BatchMaker) -> None:
    batch = maker.draw(8)
    pairs = stage_adapter.draw_pairs(batch, np.random.default_rng(0))
    assert len(pairs.texts) == 16
    assert pairs.crop.tolist() == [c for c in range(8) for _ in range(2)]
    for row, crop in zip(pairs.row.tolist(), pairs.crop.tolist(), strict=True):
        assert row == -1 or batch.rows[row][0] == crop


def test_asked_texts_know_what_is_there(maker: BatchMaker) -> None:
    batch = maker.draw(4)
    asked = stage_clip.ask(batch, 4, np.random.default_rng(0))
    present = asked.present == 1
    assert present.any()
    assert (asked.cover.flatten(2).amax(2)[present] > 0.4).all()
    absent = asked.present == 0
    assert (asked.cover.flatten(2).amax(2)[absent] == 0).all()
    assert (asked.known.flatten(2).amax(2)[asked.present == 0] == 1).all()


def test_a_threshold_in_the_gap_is_right_for_both_sides() -> None:
    threshold = export.balanced_threshold(np.array([2.0, 3.0, 4.0]), np.array([-3.0, -1.0]))
    assert -1 < threshold < 2


def test_a_blend_lies_between_the_base_and_what_was_trained() -> None:
    adapter = build_adapter(AdapterConfig(n_conditioned=1), tiny_sam(0), tiny_clip(0))
    trained = {k: v + 1 for k, v in adapter.state_dict().items()}
    none, half = (export.blended(adapter, trained, share) for share in (0.0, 0.5))
    start = adapter.state_dict()
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(none[name], start[name])
    assert torch.allclose(half[name], start[name] + 0.5)
    outer = "blocks.0.semantic.fc2.weight"
    assert torch.equal(none[outer], torch.zeros_like(none[outer]))
    assert torch.equal(half["presence.weight"], trained["presence.weight"])


def test_stages_learn_resume_and_export(tiny: None, tmp_path: Path) -> None:
    stage_sam.main(arguments(tmp_path, 60, "--objects", "3", "--rate", "3e-3"))
    stage_clip.main(arguments(tmp_path, 2))
    export.export_networks(tmp_path)
    assert load_sam(tmp_path / "sam.safetensors").config == config.SAM
    assert load_clip(tmp_path / "clip.safetensors").config == config.clip_config()

    stage_adapter.main(arguments(tmp_path, 3, "--base", str(tmp_path), "--objects", "2"))
    stage_adapter.main(arguments(tmp_path, 4, "--base", str(tmp_path), "--objects", "2"))
    state = torch.load(tmp_path / "adapter.pt", weights_only=True)
    assert state["step"] == 4, "the second run went on where the first one ended"

    settings = {"blend": 0.7, "layers": None, "adapter": None, "base_objects": False}
    options = argparse.Namespace(data="", device="cpu", **settings)
    adapter = export.export_adapter(tmp_path, options)
    assert adapter.info.words[-1] == "nuclei"
    assert 0 < adapter.info.threshold < 1
    assert "dice" in adapter.info.scores["validation"]

    options.adapter, options.base_objects = str(tmp_path / "adapter.safetensors"), True
    options.blend, options.layers = 1.0, 0.5
    again = export.export_adapter(tmp_path, options)
    assert not again.config.own_objects
    before, after = adapter.state_dict(), again.state_dict()
    for name, value in before.items():
        share = 0.5 if name.startswith("blocks") and ".fc2." in name else 1.0
        assert torch.allclose(after[name], share * value, atol=1e-3)


def test_a_stage_lowers_its_loss(tiny: None, tmp_path: Path) -> None:
    more = ("--objects", "3", "--rate", "3e-3", "--rounds", "1", "--log-every", "20")
    assert stage_sam.main(arguments(tmp_path, 120, *more))
    losses = curve(tmp_path, "sam", "loss")
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]


def test_the_learning_rate_warms_up_and_falls(tiny: None, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    groups = [{"params": list(model.parameters()), "lr": 1.0, "weight_decay": 0.0}]
    options = argparse.Namespace(
        out=str(tmp_path), steps=40, minutes=None, stop_after=None, save_every=9
    )
    run = loop.Run("line", model, groups, options)
    rates = [run.optimizer.param_groups[0]["lr"] for _ in run.steps()]
    assert rates[0] < rates[4]
    assert max(rates) == pytest.approx(1.0, abs=0.05)
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


def test_a_window_cuts_maps_of_any_scale_alike() -> None:
    windows = Windows(torch.tensor([[0, 2], [2, 0]]), side=2, grid=4, stride=8)
    fine = torch.arange(2 * 16 * 16).view(2, 1, 16, 16).float()
    coarse = torch.nn.functional.avg_pool2d(fine, 4)
    cut = torch.nn.functional.avg_pool2d(windows.cut(fine), 4)
    assert torch.equal(cut, windows.cut(coarse))
    assert windows.offset(torch.tensor([0, 1])).tolist() == [[16.0, 0.0], [0.0, 16.0]]
    assert torch.equal(Windows.whole(2, 4, 8, torch.device("cpu")).cut(coarse), coarse)


def test_windows_lie_where_there_is_something_to_see(tiny: None) -> None:
    shown = torch.zeros(3, 32, 32)
    shown[0, 20:28, 4:12] = 1  # token rows 5 and 6, columns 1 and 2
    shown[1] = 1
    shown[2, 0, 31] = 1  # less than asked for, but all there is
    rng = np.random.default_rng(0)
    drawn = [place(shown, 4, config.SAM, rng).origin.tolist() for _ in range(20)]
    assert {tuple(origins[0]) for origins in drawn} == {(4, 0)}
    assert {tuple(origins[1]) for origins in drawn} == {(0, 0), (0, 4), (4, 0), (4, 4)}
    assert {tuple(origins[2]) for origins in drawn} == {(0, 4)}
    whole = place(shown, config.SAM.grid, config.SAM, rng)
    assert whole.side == whole.grid and not whole.origin.any()


def test_a_window_gives_the_embedding_of_the_whole_away_from_its_border(tiny: None) -> None:
    torch.manual_seed(0)
    sam = Sam(config.SAM)
    pixels = torch.randn(1, 3, SIZE, SIZE)
    windows = Windows(torch.tensor([[4, 0]]), 4, config.SAM.grid, config.SAM.patch_size)
    with torch.no_grad():
        tokens = sam.trunk(pixels, 0)
        whole = windows.cut(sam.head(tokens, 0))
        part = sam.head(windows.cut_last(tokens), 0)
    # The neck's 3 x 3 convolution sees one token beyond.
    assert torch.allclose(whole[..., 1:, :-1], part[..., 1:, :-1], atol=1e-5)
    assert not torch.allclose(whole, part, atol=1e-5)


def test_the_sam_learns_from_windows_and_then_from_whole_canvases(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    kept = stage_sam._step

    def step(run: loop.Run, pixels: torch.Tensor, *rest: object) -> None:
        sides.append(pixels.shape[-1])
        kept(run, pixels, *rest)

    monkeypatch.setattr(stage_sam, "_step", step)
    more = ("--window", "4", "--whole-from", "0.5", "--objects", "3", "--validate-every", "0")
    assert stage_sam.main(arguments(tmp_path, 6, *more))
    assert sides == [SIZE // 2] * 3 + [SIZE] * 3


def test_a_stage_that_is_stopped_is_not_over(tiny: None, tmp_path: Path) -> None:
    assert not stage_clip.main(arguments(tmp_path, 1000, "--stop-after", "0"))
    assert not (tmp_path / "clip_curve.csv").exists()


def test_the_adapter_learns_from_windows_of_kept_crops(tiny: None, tmp_path: Path) -> None:
    stage_sam.main(arguments(tmp_path, 1))
    stage_clip.main(arguments(tmp_path, 1))
    export.export_networks(tmp_path)
    more = ("--base", str(tmp_path), "--crops", "8", "--window", "4", "--save-every", "2")
    stage_adapter.main(arguments(tmp_path, 3, *more))
    assert torch.load(tmp_path / "adapter.pt", weights_only=True)["step"] == 3


def test_decoders_learn_on_kept_embeddings_and_the_encoder_stays(
    tiny: None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save_sam(Sam(config.SAM), tmp_path / "sam.safetensors")
    before = load_sam(tmp_path / "sam.safetensors")
    more = ("--base", str(tmp_path), "--crops", "8", "--window", "4", "--objects", "3")
    more += ("--rate", "3e-3", "--rounds", "1", "--log-every", "20")
    runs = [tmp_path / seed for seed in ("0", "1")]
    for run in runs:
        assert stage_decoder.main(arguments(run, 60, *more, "--seed", run.name))
    losses = curve(runs[0], "decoder", "loss")
    assert losses[-1] < 0.95 * losses[0]

    export.export_decoder(tmp_path, runs)
    after = load_sam(tmp_path / "sam.safetensors")
    assert after.identity == before.identity, "adapters of the base still fit"
    name = "mask_decoder.mask_tokens.weight"
    trained = [export.averaged(run, "decoder")[name] for run in runs]
    assert not torch.allclose(trained[0], trained[1])
    assert torch.allclose(after.state_dict()[name], (trained[0] + trained[1]) / 2, atol=1e-3)


def test_a_mask_is_worth_its_overlap_with_the_best_object() -> None:
    ids = torch.zeros(4, 4, dtype=torch.long)
    ids[0], ids[3, :2] = 1, 2
    row, everything, nothing, between = (torch.full((4, 4), -1.0) for _ in range(4))
    row[0, 1:], everything[:], between[1:3] = 1, 1, 1
    logits = torch.stack([row, everything, nothing, between])[None]
    assert stage_quality.overlap_with_any(logits, ids).tolist() == [[0.75, 0.25, 0, 0]]
    assert not stage_quality.overlap_with_any(logits, torch.zeros_like(ids)).any()


def test_the_quality_head_learns_what_is_no_object_and_masks_stay(
    tiny: None, maker: BatchMaker, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sam = Sam(config.SAM)
    head = sam.mask_decoder.iou_prediction_head
    torch.nn.init.constant_(head.layers[-1].bias, 0.9)
    save_sam(sam, tmp_path / "sam.safetensors")
    before = load_sam(tmp_path / "sam.safetensors")
    more = ("--base", str(tmp_path), "--crops", "12", "--rate", "3e-3", "--save-every", "50")
    assert not stage_quality.main(arguments(tmp_path, 400, *more, "--stop-after", "0"))
    assert stage_quality.main(arguments(tmp_path, 400, *more))
    export.export_quality(tmp_path, share=0.5)
    half = load_sam(tmp_path / "sam.safetensors").state_dict()
    save_sam(before, tmp_path / "sam.safetensors")
    export.export_quality(tmp_path)
    after = load_sam(tmp_path / "sam.safetensors")
    assert after.identity == before.identity, "adapters of the base still fit"
    old, new = before.state_dict(), after.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all("iou_prediction_head" in name for name in changed)
    for name in changed:
        torch.testing.assert_close(half[name], (old[name] + new[name]) / 2, rtol=1e-3, atol=1e-4)

    known = stage_quality.judge(before, maker, objects=3, elsewhere=8)
    n = (len(known.tokens) - 8) // 2
    assert n and known.counts.sum(dim=1).tolist() == [4.0] * n + [1.0] * n + [4.0] * 8
    with torch.no_grad():
        errors = [
            (one.mask_decoder.iou_prediction_head(known.tokens) - known.iou)[-8:].abs().mean()
            for one in (before, after)
        ]
    assert errors[1] < 0.5 * errors[0]


def test_the_refiner_learns_from_what_the_frozen_sam_answers(tiny: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_sam(Sam(config.SAM), tmp_path / "sam.safetensors")
    save_clip(build_clip(config.clip_config()), tmp_path / "clip.safetensors")
    before = load_sam(tmp_path / "sam.safetensors")
    more = ("--base", str(tmp_path), "--views", "2", "--objects", "4", "--workers", "2")
    more += ("--batch", "16", "--validate-every", "40", "--log-every", "5", "--save-every", "10")
    assert not stage_refiner.main(arguments(tmp_path, 40, *more, "--stop-after", "0"))
    assert stage_refiner.main(arguments(tmp_path, 40, *more))
    reached = curve(tmp_path, "refiner", "iou")
    assert np.mean(reached[-3:]) > np.mean(reached[:3]) + 0.1
    assert curve(tmp_path, "refiner", "box")[-1] > 0.15, "of a SAM that marks anything"

    export.export_refiner(tmp_path, "refiner")
    export.export_refiner(tmp_path, "refiner")
    after = load_sam(tmp_path / "sam.safetensors")
    assert after.config.refiner_widths == (8, 16) and after.refiner is not None
    begun = curve(tmp_path, "refiner", "mask")[0]
    start = ("--start", str(tmp_path / "sam.safetensors"))
    (tmp_path / "refiner.pt").unlink()
    assert stage_refiner.main(arguments(tmp_path, 5, *more, *start))
    assert curve(tmp_path, "refiner", "mask")[-1] < 0.9 * begun, "it goes on"
    _assert_adds_to(before, after)


def _assert_adds_to(before: Sam, after: Sam) -> None:
    assert after.identity == before.identity, "adapters of the base still fit"
    old, new = before.state_dict(), after.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_the_concept_refiner_learns_from_what_the_frozen_networks_answer(
    tiny: None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save_sam(Sam(config.SAM), tmp_path / "sam.safetensors")
    save_clip(build_clip(config.clip_config()), tmp_path / "clip.safetensors")
    before, clip = (
        load(tmp_path / f"{name}.safetensors")
        for name, load in (("sam", load_sam), ("clip", load_clip))
    )
    adapter = build_adapter(config.ADAPTER, before, clip).with_info(words=("nuclei",))
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    more = ("--base", str(tmp_path), "--views", "2", "--windows", "2", "--workers", "1")
    more += ("--batch", "8", "--validate-every", "40", "--log-every", "5", "--save-every", "10")
    assert stage_concept_refiner.main(arguments(tmp_path, 60, *more))
    wrong = curve(tmp_path, "concept_refiner", "bce")
    assert np.mean(wrong[-3:]) < np.mean(wrong[:3]) - 0.05
    before_it, after_it = (
        curve(tmp_path, "concept_refiner", f"dice{when}")[-1] for when in (" before", "")
    )
    assert after_it > before_it, "a random decoder marks anything"

    export.export_refiner(tmp_path, "concept_refiner")
    after = load_sam(tmp_path / "sam.safetensors")
    assert after.config.concept_refiner_widths == (8, 16) and after.refiner is None
    _assert_adds_to(before, after)


@pytest.fixture(scope="module")
def concept_windows(samples: list[Sample]) -> ConceptWindows:
    """Windows on what a random adapter answers on two generated images."""
    sam, clip = tiny_sam(), tiny_clip()
    segmenter = Segmenter(LoadedModel("tiny", sam, clip, None), None, "cpu")
    chosen = [s for s in samples if s.concepts][:2]
    rng = np.random.default_rng(0)
    return concept_windows_module.collect(segmenter, chosen, [0.5, 0.5], 2, 3, rng)


def test_windows_show_a_concept_and_its_truth(concept_windows: ConceptWindows) -> None:
    assert float(concept_windows.share.sum()) == pytest.approx(1.0)
    assert (concept_windows.truth > 127).any() and (concept_windows.truth < 127).any()
    rows = torch.arange(len(concept_windows.truth))
    seen, truth = concept_windows_module.as_shown(concept_windows, rows)
    assert seen.shape[1:] == (5, 96, 96) and truth.shape[1:] == (96, 96)
    torch.testing.assert_close(truth * 255, concept_windows.truth[:, 24:-24, 24:-24].float())


def test_moved_windows_keep_pixels_and_truth_together(concept_windows: ConceptWindows) -> None:
    marked = concept_windows._replace(similarity=concept_windows.truth)
    rows = torch.arange(len(marked.truth)).repeat(4)
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    seen, truth = concept_windows_module.draw(marked, rows, rng, generator)
    assert seen.isfinite().all() and seen.shape[1:] == (5, 96, 96)
    assert ((seen[:, 3] >= 0) & (seen[:, 3] <= 1)).all()
    torch.testing.assert_close(seen[:, 4], truth)


@pytest.fixture(scope="module")
def close_ups(samples: list[Sample]) -> CloseUps:
    """Close-ups of a random SAM's answers on two generated images."""
    sam, clip = tiny_sam(), tiny_clip()
    segmenter = Segmenter(LoadedModel("tiny", sam, clip, None), None, "cpu")
    chosen = [s for s in samples if "instance" in s.kinds.values()][:2]
    return collect(segmenter, chosen, [0.5, 0.5], 2, 5, np.random.default_rng(0))


def test_close_ups_show_objects_with_what_was_asked(close_ups: CloseUps) -> None:
    assert float(close_ups.share.sum()) == pytest.approx(1.0)
    boxed = ~close_ups.box[:, 0].isnan()
    beside = ~(close_ups.truth > 127).flatten(1).any(dim=1)
    assert boxed.any() and beside.any() and not (boxed & beside).any()
    assert (boxed == close_ups.click[:, 0].isnan()).all(), "one click or one box"
    for row in torch.nonzero(boxed).flatten().tolist():
        y0, x0, y1, x1 = close_ups.box[row].round().int().tolist()
        truth = close_ups.truth[row] > 127
        assert truth[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4].sum() == truth.sum()


def test_the_middle_of_a_close_up_is_what_the_product_shows(close_ups: CloseUps) -> None:
    rows = torch.arange(len(close_ups.masks))
    close, wide = (as_shown(close_ups, rows, choice) for choice in (False, True))
    for row, click in enumerate(close_ups.click):
        if not click.isnan().any():
            for (seen, truth), shown in ((close, click - 16), (wide, (click - 8) * 0.8)):
                y, x = shown.int().tolist()
                assert seen[row, 6, y, x] > 0.8
                assert truth[row, y, x] > 0.2 or not (close_ups.truth[row] > 127).any()
    assert torch.equal(close[0][:, 3], close[0][:, 5]), "one mask"
    assert not torch.equal(wide[0][:, 3], wide[0][:, 5]), "what a click may mean"


def test_moved_close_ups_keep_clicks_boxes_and_objects_together(close_ups: CloseUps) -> None:
    rng, generator = np.random.default_rng(3), torch.Generator().manual_seed(3)
    rows = torch.arange(len(close_ups.masks)).repeat(6)
    seen, truth = draw(close_ups, rows, rng, generator)
    assert seen.isfinite().all() and seen.shape[1:] == (9, 64, 64)
    there = (truth > 0.5).flatten(1).any(dim=1)
    framed = seen[:, 8]
    boxed = (framed.sum(dim=(1, 2)) > 0) & there
    held = (truth * (framed > 0)).sum(dim=(1, 2))[boxed] / truth.sum(dim=(1, 2))[boxed]
    assert float(held.median()) > 0.97
    alone = (seen[:, 3].sum(dim=(1, 2)) == 0) & (seen[:, 6].amax(dim=(1, 2)) > 0.9) & there
    assert alone.any()
    under = (truth * seen[:, 6]).sum(dim=(1, 2))[alone] / seen[:, 6].sum(dim=(1, 2))[alone]
    assert float(under.median()) > 0.7
