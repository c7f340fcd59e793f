"""What the few-shot benchmark runs, on which planes, and how it goes on where it was ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from lessons import example, tiny_model

from benchmarks import fewshot_cost
from benchmarks.fewshot import main, work
from benchmarks.fewshot_data import APART, TESTED, LabelledSet, evenly
from benchmarks.fewshot_runs import (
    ABLATION_SETS,
    EXPERIMENTS,
    NEXT,
    SETS,
    VARIANTS,
    Budget,
    Results,
    Run,
    Source,
    list_runs,
    part_of,
)
from benchmarks.fewshot_tables import tables
from benchmarks.fewshot_train import Bench, choose_next, settings_of
from napari_clipsam.adapters.base import AdapterConfig
from napari_clipsam.adapters.inject import build_adapter
from napari_clipsam.training.ranking import Uncertain
from napari_clipsam.training.settings import FitSettings

RUN = Run("train", "blobs", "base", 2, 0, "3 steps")
HEAD = "file,label,split,concepts,label_type\n"


def make_set(folder: Path, splits: dict[str, int], empty: tuple[int, ...] = ()) -> Source:
    """A data set with a stack a split; some slices of each have no labels."""
    for kind in ("images", "labels"):
        (folder / "made" / kind).mkdir(parents=True)
    rows = [f"images/{name}.tif,labels/{name}.tif,{name},blobs,instance" for name in splits]
    (folder / "made" / "index.csv").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    number = 0
    for name, count in splits.items():
        planes = [example(number + i) for i in range(count)]
        number += count
        images = np.stack([one.plane.rgb[..., 0] for one in planes])
        labels = np.stack([one.labels * (i not in empty) for i, one in enumerate(planes)])
        for kind, values in (("images", images), ("labels", labels)):
            path = folder / "made" / kind / f"{name}.tif"
            tifffile.imwrite(path, values, imagej=True, metadata={"axes": "ZYX"})
    return Source("made", "blobs", splits.get("train", 0))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Tiny networks, and a set of two stacks."""
    monkeypatch.setitem(SETS, "blobs", make_set(tmp_path, {"train": 4, "test": 2}))
    model = tiny_model()
    starter = build_adapter(AdapterConfig(1), model.sam, model.clip, 0)
    return Bench(model, starter.with_info(words=("blobs", "dots"), threshold=0.0), tmp_path)


# ---------------------------------------------------------------- runs


def test_runs_are_listed_once_and_seed_by_seed() -> None:
    runs = list_runs(EXPERIMENTS)
    assert len(set(runs)) == len(runs)
    seeds = [run.seed for run in runs if run.task == "train"]
    assert seeds == sorted(seeds) and set(seeds) == {0, 1, 2}


def test_every_variant_is_run_on_the_sets_of_the_ablation() -> None:
    runs = list_runs(["ablation"], seeds=[0])
    trained = {(run.set, run.variant) for run in runs if run.task == "train"}
    variants = VARIANTS.keys() - {"longer"}
    assert trained == {(name, variant) for name in ABLATION_SETS for variant in variants}
    assert {run.set for run in runs if run.task == "frozen"} == set(ABLATION_SETS)


def test_a_user_s_budget_is_tried_on_the_sets_of_the_ablation_alone() -> None:
    runs = list_runs(["learn"], sets=["mouse nuclei", "phase-contrast cells"])
    assert {(run.task, run.set, run.budget) for run in runs} == {
        ("learn", "phase-contrast cells", "3 min")
    }
    assert [run.seed for run in runs] == [0, 1, 2]


def test_no_more_planes_are_asked_for_than_there_are() -> None:
    runs = list_runs(["shots"])
    assert all(run.shots <= SETS[run.set].planes for run in runs)
    assert {run.shots for run in runs if run.set == "EM membranes (ISBI)"} == {0, 1, 3, 5, 10}


@given(parts=st.integers(1, 5), seeds=st.lists(st.integers(0, 9), unique=True, max_size=3))
def test_processes_share_all_runs_by_whole_cells(parts: int, seeds: list[int]) -> None:
    runs = list_runs(EXPERIMENTS, seeds=seeds)
    shares = [part_of(runs, part, parts) for part in range(parts)]
    assert sorted(map(str, runs)) == sorted(str(run) for share in shares for run in share)
    cells = [{run.cell for run in share} for share in shares]
    assert sum(map(len, cells)) == len(set().union(*cells))


def test_the_plane_alone_comes_before_those_that_are_labelled_next() -> None:
    runs = [run for run in list_runs(["next"], seeds=[0]) if run.set == "EM mitochondria"]
    assert [run.variant for run in runs] == list(NEXT)
    assert len({run.cell for run in runs}) == 1


def test_variants_differ_from_the_base_in_what_they_say(bench: Bench) -> None:
    settings = {name: settings_of(bench, replace(RUN, variant=name)) for name in VARIANTS}
    base = settings["base"].to_json()
    differing = {
        name: {key for key, value in own.to_json().items() if value != base[key]}
        for name, own in settings.items()
        if not VARIANTS[name].from_starter
    }
    assert differing == {
        "base": set(),
        "decoder only": {"blocks", "clip_tuning"},
        "lora": {"kind", "clip_tuning"},
        "no semantics": {"semantics"},
        "all blocks": {"n_conditioned"},
        "paper init": {"init"},
        "CLIP frozen": {"clip_tuning"},
        "clicks": {"concept_prompts"},
    }
    assert settings["all blocks"].n_conditioned == bench.model.sam.config.depth
    assert settings["starter"] == FitSettings(minutes=None, steps=3, views=12)
    assert settings["longer"] == FitSettings(minutes=None, steps=9, views=12)


@pytest.mark.parametrize("budget", [Budget(0.5), Budget(None, 7)])
def test_a_budget_is_read_as_it_was_written(budget: Budget) -> None:
    assert Budget.parse(str(budget)) == budget


# ---------------------------------------------------------------- planes


def test_planes_to_learn_from_are_of_the_train_split(tmp_path: Path) -> None:
    source = make_set(tmp_path, {"train": 6, "val": 2, "test": 12}, empty=(1,))
    labelled = LabelledSet.open(source, tmp_path)
    names = {one.plane.name for one in labelled.examples(labelled.pool)}
    tested = [one.plane.name for one in labelled.test_planes]
    assert names == {f"train.tif Z={z}" for z in (0, 2, 3, 4, 5)}
    assert len(tested) == 8 and all(name.startswith("test.tif") for name in tested)
    assert "test.tif Z=1" not in tested


@pytest.mark.parametrize("seed", range(5))
def test_a_set_without_train_split_is_learnt_far_from_what_is_tested(
    tmp_path: Path, seed: int
) -> None:
    labelled = LabelledSet.open(make_set(tmp_path, {"test": 51}, empty=(0, 50)), tmp_path)
    tested = [n for _, n in labelled.tested]
    learnt = labelled.draw(10, seed)
    assert len(tested) == TESTED and len(learnt) == 10
    assert set(learnt) <= set(labelled.pool)
    assert min(abs(n - other) for _, n in learnt for other in tested) >= APART


def test_the_seed_draws_the_planes(tmp_path: Path) -> None:
    labelled = LabelledSet.open(make_set(tmp_path, {"train": 9, "test": 1}), tmp_path)
    assert labelled.draw(3, 1) == labelled.draw(3, 1)
    assert len({tuple(labelled.draw(3, seed)) for seed in range(8)}) > 1


@given(count=st.integers(1, 60), most=st.integers(1, 10))
def test_even_steps_take_no_item_twice(count: int, most: int) -> None:
    chosen = evenly(range(count), most)
    assert len(chosen) == min(count, most) == len(set(chosen))
    assert chosen == sorted(chosen)


def test_what_is_labelled_next_follows_the_ranking() -> None:
    ranked = [Uncertain(key, value) for key, value in ((0, 0.1), (2, 0.9), (3, 0.8), (7, 0.6))]
    assert choose_next("first", ranked, 1, 0) == [2, 3]
    assert choose_next("last", ranked, 1, 0) == [7, 0]
    assert choose_next("spread", ranked, 1, 0) == [7, 3]
    assert set(choose_next("random", ranked, 1, 0)) < {0, 2, 3, 7}


# ---------------------------------------------------------------- results


def test_what_is_done_is_not_done_again(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(tmp_path / "out" / "results.jsonl")
    runs = [Run("frozen", "blobs", "starter"), RUN]
    work(bench, runs, results)
    found = results.read()
    assert list(found) == runs and len(capsys.readouterr().out.splitlines()) == 2
    work(bench, runs, results)
    assert results.read() == found and not capsys.readouterr().out
    values = found[RUN]
    assert 0 <= values["dice"] <= 1 and 0 <= values["dice_clicks"] <= 1
    assert values["steps"] == 3 and values["tested"] == 2 and values["file_bytes"] > 1000
    assert found[runs[0]]["best_dice"] >= found[runs[0]]["dice"]
    assert 0 < found[runs[0]]["all_dice"] < 1
    assert not set(values["learnt_from"]) & {f"test.tif Z={z}" for z in range(2)}


def test_a_plane_alone_is_ranked_and_the_next_ones_follow(bench: Bench, tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    more = Run("next", "blobs", "first", 3, 0, "3 steps")
    work(bench, [more], results)
    assert not results.read(), "without the plane alone there is no ranking"
    one = replace(more, variant="one", shots=1)
    work(bench, [one, more], results)
    found = results.read()
    assert len(found[one]["ranked"]) == len(found[one]["rest_dice"]) == 3
    assert len(set(found[more]["learnt_from"])) == 3


def test_costs_are_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewshot_cost, "vit_b", lambda device: tiny_model(1))
    found = fewshot_cost.epoch(bench, Run("epoch", "blobs", "", 3))
    assert found["views"] == 2 * 3 and len(found["times"]) == 5
    assert min(found["ratio"], found["ratio_with_clip"], found["ratio_mixed"]) > 0
    values = fewshot_cost.learn(bench, Run("learn", "blobs", "starter", 3, 0, "3 steps"))
    assert values["whole_seconds"] >= values["seconds"] >= values["best_seconds"]
    sizes = fewshot_cost.sizes(bench)
    assert (
        sizes["file_bytes"]["ViT-B, CLIP's attention"] > sizes["file_bytes"]["ViT-B, CLIP's none"]
    )
    assert 0 < sizes["step_memory"] < sizes["process_peak"]


def test_several_processes_may_write(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    for seed in range(3):
        Results(results.path).add(replace(RUN, seed=seed), {"dice": seed / 10})
    results.add(RUN, {"dice": 0.9})
    assert [values["dice"] for values in results.read().values()] == [0.9, 0.1, 0.2]


def test_runs_can_be_listed_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--only", "size", "--out", str(tmp_path)]
    main([*asked, "--list"])
    assert "1 runs, 0 done" in capsys.readouterr().out


# ---------------------------------------------------------------- tables


def scored(variant: str, shots: int, seed: int, dice: float, **more: object) -> tuple[Run, dict]:
    values = {"dice": dice, "dice_any": dice, "steps": 9, "file_bytes": 1_500_000, **more}
    return Run("train", "EM mitochondria", variant, shots, seed, "1 min"), values


FROZEN = {
    Run("frozen", "EM mitochondria", "starter"): {
        "dice": 0.1,
        "best_word": "cells",
        "best_dice": 0.2,
        "all_dice": 0.3,
    }
}


def test_tables_are_printed_from_what_is_there() -> None:
    assert tables({}, "1 min") == ""
    text = tables(FROZEN | dict([scored("base", 5, 0, 0.5)]), "1 min")
    assert "| frozen: the starter as it comes | 0.100 |" in text
    assert "trained by text | 0.500 |" in text and "±" not in text
    assert "0.500" not in tables(dict([scored("base", 5, 0, 0.5)]), "2 min")


def test_scores_of_seeds_are_joined_and_held_against_targets() -> None:
    found = FROZEN | dict(
        [
            scored("starter", 5, 0, 0.4),
            scored("longer", 5, 0, 0.5),
            scored("longer", 5, 1, 0.7),
            scored("longer", 5, 2, 0.9),
            scored("base", 5, 0, 0.5),
            scored("base", 5, 1, 0.7),
            scored("base", 5, 2, 0.9),
            scored("no semantics", 5, 0, 0.6),
            scored("no semantics", 5, 1, 0.7),
            scored("starter", 1, 0, 0.05),
        ]
    )
    lines = tables(found, "1 min").splitlines()
    row = next(line for line in lines if line.startswith("| EM mitochondria | 5 | 3 |"))
    # The difference is of the seeds that both have.
    assert "0.650 ± 0.071 | -0.050 ± 0.071 | yes | no |" in row
    assert "| 0.400 | 0.700 ± 0.200 | 0.700 ± 0.200 | 0.650 ± 0.071 |" in row
    assert "| 0.300 | 0.100 | 0.200 (cells) |" in row
    assert "| 5 planes, three times as long: 0.15 above frozen, or 0.85 | 1 of 1 | yes |" in lines
    assert "| one plane: above frozen | 0 of 1; not EM mitochondria | no |" in lines
    assert any("semantics +0.03 on average | -0.050" in line and "| no |" in line for line in lines)


def test_prompts_and_the_next_planes_have_their_tables() -> None:
    def added(variant: str, shots: int, dice: float) -> tuple[Run, dict]:
        values: dict[str, object] = {"dice": dice}
        if variant == "one":
            values |= {"ranked": [[0, 0.2], [1, 0.4], [2, 0.3]], "rest_dice": [0.9, 0.5, 0.7]}
        return Run("next", "EM mitochondria", variant, shots, 0, "1 min"), values

    found = dict(
        [
            scored("base", 5, 0, 0.5, dice_clicks=0.4),
            scored("clicks", 5, 0, 0.3, dice_clicks=0.6),
            added("one", 1, 0.2),
            added("first", 3, 0.5),
            added("random", 3, 0.4),
        ]
    )
    text = tables(found, "1 min")
    assert "| EM mitochondria | text | 0.500 | 0.400 |" in text
    assert "| EM mitochondria | clicks | 0.300 | 0.600 |" in text
    assert "| EM mitochondria | 1 | 0.200 | 0.500 |  | 0.400 |  | +0.100 | +1.000 |" in text


def test_costs_are_held_against_their_targets() -> None:
    found = {
        Run("epoch", "EM membranes (ISBI)", "", 5): {
            "ratio": 0.55,
            "ratio_with_clip": 0.65,
            "ratio_mixed": 0.4,
        },
        Run("size"): {
            "file_bytes": {"starter": 6e6, "ViT-B, CLIP's attention": 7e7},
            "step_memory": 2e9,
            "weights": 1e9,
            "process_peak": 9e9,
        },
    }
    text = tables(found, "1 min")
    assert "whole planes, CLIP in neither | 0.55 | 0.60 | yes |" in text
    assert "whole planes, CLIP in both | 0.65 | 0.60 | no |" in text
    assert "| file: starter | 6.00 MB | 5 MB | no |" in text
    assert "attention | 70.00 MB | 80 MB | yes |" in text
    assert "weights | 3.00 GB | 8 GB | yes |" in text and "process | 9.00 GB | 8 GB | no |" in text
