"""What a Segmenter computes and keeps, which model answers, and what it says of trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import same
from tiny import randomise, tiny_clip, tiny_sam

from napari_clipsam.adapters.files import save_adapter
from napari_clipsam.adapters.inject import Adapter
from napari_clipsam.errors import (
    AdapterError,
    ClipSamError,
    ConfigError,
    PlaneError,
    PromptError,
    WordError,
)
from napari_clipsam.inference.requests import ObjectMask, Prediction, PredictRequest
from napari_clipsam.inference.segmenter import Segmenter
from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.planes import Plane, open_image
from napari_clipsam.prompts import Prompts

MakeAdapter = Callable[..., Adapter]
MakePlane = Callable[..., Plane]
CLICK = Prompts(points=[(20, 30)])


def spent(segmenter: Segmenter, *args: object, **kwargs: object) -> Counter[str]:
    """What ran for one prediction."""
    before = Counter(segmenter.calls)
    segmenter.predict(*args, **kwargs)
    return segmenter.calls - before


# ---------------------------------------------------------------- what is computed


def test_everything_runs_once(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter())
    segmenter.set_plane(make_plane())

    first = spent(segmenter, Prompts("nuclei"))
    assert first == {"trunk": 1, "clip": 1, "text": 1, "head": 1, "decode": 1}
    assert spent(segmenter, Prompts("nuclei")) == {"decode": 1}


def test_a_click_runs_the_decoder_alone(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    assert spent(segmenter, CLICK) == {"trunk": 1, "head": 1, "decode": 1}
    assert spent(segmenter, Prompts(points=[(1, 2), (30, 40)])) == {"decode": 1}
    segmenter.set_adapter(make_adapter(words=("nuclei",)))
    segmenter.predict(CLICK)
    assert spent(segmenter, Prompts("nuclei", boxes=[(1, 2, 30, 40)])) == {"decode": 1}


def test_a_new_word_runs_text_and_head(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter())
    segmenter.set_plane(make_plane())
    segmenter.predict(Prompts("nuclei"))

    assert spent(segmenter, Prompts("cells")) == {"text": 1, "head": 1, "decode": 1}
    assert spent(segmenter, Prompts(" Nuclei ")) == {"decode": 1}
    segmenter.set_adapter(None)
    assert spent(segmenter, Prompts("walls")) == {"text": 1, "head": 1, "decode": 1}
    assert spent(segmenter, Prompts("cells")) == {"decode": 1}


def test_a_new_adapter_runs_the_head_on_the_same_trunk(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter(0))
    segmenter.predict(Prompts("nuclei"))
    for adapter in (make_adapter(4), None):
        segmenter.set_adapter(adapter)
        assert spent(segmenter, Prompts("nuclei")) == {"head": 1, "decode": 1}
    segmenter.set_adapter(make_adapter(0))
    assert spent(segmenter, Prompts("nuclei")) == {"decode": 1}


def test_an_adapter_with_more_blocks_needs_another_trunk(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter())
    segmenter.predict(Prompts("nuclei"))
    segmenter.set_adapter(make_adapter(n_conditioned=3))

    assert spent(segmenter, Prompts("nuclei")) == {"trunk": 1, "head": 1, "decode": 1}


def test_an_adapter_with_its_own_clip_attention_runs_clip_again(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter())
    segmenter.predict(Prompts("nuclei"))
    segmenter.set_adapter(make_adapter(clip_tuning="lora"))

    assert spent(segmenter, Prompts("nuclei")) == {"clip": 1, "head": 1, "decode": 1}


def test_a_new_plane_runs_everything_and_a_former_one_nothing(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter())
    planes = [make_plane(seed=seed) for seed in range(2)]
    for plane in planes:
        segmenter.set_plane(plane)
        ran = spent(segmenter, Prompts("nuclei"))
        assert {"trunk": 1, "clip": 1, "head": 1, "decode": 1}.items() <= ran.items()
    for plane in (*planes, make_plane(seed=0)):
        segmenter.set_plane(plane)
        assert spent(segmenter, Prompts("nuclei")) == {"decode": 1}


def test_times_are_those_of_what_ran(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter())
    segmenter.set_plane(make_plane())
    first = segmenter.predict(Prompts("nuclei")).seconds
    again = segmenter.predict(Prompts("nuclei")).seconds

    assert all(first[stage] > 0 for stage in ("trunk", "signals", "head", "decode"))
    assert (again["trunk"], again["head"]) == (0, 0) and again["decode"] > 0
    assert set(first) == set(again) == {"trunk", "signals", "head", "decode"}


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_hit_and_a_miss_give_the_same_answer(
    model: LoadedModel, make_adapter: MakeAdapter, make_plane: MakePlane, precision: str
) -> None:
    def ask(segmenter: Segmenter) -> list[Prediction]:
        prompts = (Prompts("nuclei"), Prompts("nuclei", points=[(20, 30)]))
        return [segmenter.predict(one, "object" if one.has_object else None) for one in prompts]

    adapter = make_adapter(1, n_conditioned=2)
    used = Segmenter(model, adapter, "cpu", precision)
    for plane in (make_plane(seed=1), make_plane()):
        used.set_plane(plane)
        ask(used)
    answers = ask(used)
    assert all(0 < answer.objects[0].area < 48 * 64 for answer in answers)
    fresh = Segmenter(model, adapter, "cpu", precision)
    fresh.set_plane(make_plane())

    assert fresh.calls["trunk"] == 0
    assert all(same(a, b) for a, b in zip(answers, ask(fresh), strict=True))
    # Nor does it show what was used before.
    used.set_adapter(None)
    plain = Segmenter(model, None, "cpu", precision)
    plain.set_plane(make_plane())
    assert all(same(a, b) for a, b in zip(ask(used), ask(plain), strict=True))


def test_reduced_precision_is_kept_in_half_the_memory(
    model: LoadedModel, make_plane: MakePlane
) -> None:
    held = []
    for precision in ("fp32", "bf16"):
        segmenter = Segmenter(model, None, "cpu", precision)
        segmenter.set_plane(make_plane())
        segmenter.predict(CLICK)
        held.append(segmenter._encoder._trunks.bytes)

    assert held == [8 * 8 * 32 * 4, 8 * 8 * 32 * 2]


def test_a_compiled_encoder_gives_the_same_answer(
    model: LoadedModel, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = []

    def compile_it(run: Callable[..., object], **_: object) -> Callable[..., object]:
        return lambda *args: (blocks.append(args[0]), run(*args))[1]

    plain = Segmenter(model, None, "cpu")
    plain.set_plane(make_plane())
    answer = plain.predict(CLICK)
    monkeypatch.setattr(torch, "compile", compile_it)
    monkeypatch.setattr("shutil.which", lambda name: name)
    segmenter = Segmenter(model, None, "cpu", compilation="blocks")
    segmenter.set_plane(make_plane())
    assert same(segmenter.predict(CLICK), answer)
    assert blocks == list(model.sam.image_encoder.blocks)


def test_memory_for_trunks_is_bounded(model: LoadedModel, make_plane: MakePlane) -> None:
    one = 8 * 8 * 32 * 4
    segmenter = Segmenter(model, None, "cpu", cache_bytes=2 * one)
    for seed in (0, 1, 2, 1, 0):
        segmenter.set_plane(make_plane(seed=seed))
        segmenter.predict(CLICK)

    assert segmenter._encoder._trunks.bytes == 2 * one
    # Of 0, 1, 2 the first was forgotten; and its embedding with it.
    assert segmenter.calls["trunk"] == 4


def test_an_adapter_is_known_by_its_weights(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    """Not by its address, which another one may have after it is gone."""
    segmenter.set_plane(make_plane())
    heads = []
    for seed in (0, 1, 2, 3, 1, 0):
        segmenter.set_adapter(make_adapter(seed))
        heads.append(spent(segmenter, Prompts("nuclei"))["head"])
        segmenter.set_adapter(None)

    assert heads == [1, 1, 1, 1, 0, 0]


def test_an_adapter_that_was_trained_on_is_another(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    adapter = make_adapter()
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(adapter)
    before = segmenter.predict(Prompts("nuclei"))
    with torch.no_grad():
        for value in adapter.blocks.parameters():
            value.mul_(1.5)
    segmenter.set_adapter(adapter)

    assert spent(segmenter, Prompts("nuclei"))["head"] == 1
    assert not same(segmenter.predict(Prompts("nuclei")), before)


def test_a_setting_makes_another_adapter_of_the_same_weights(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    for normalisation in ("channel", "token"):
        segmenter.set_adapter(make_adapter(normalisation=normalisation))
        assert spent(segmenter, Prompts("nuclei"))["head"] == 1


def test_an_adapter_can_go_on_training(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    adapter = make_adapter()
    segmenter.set_adapter(adapter)
    segmenter.set_plane(make_plane())
    segmenter.predict(Prompts("nuclei"))

    assert all(value.requires_grad for value in adapter.parameters())


def test_the_same_seed_gives_the_same_answer(
    model: LoadedModel, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    def ask(seed: int) -> Prediction:
        segmenter = Segmenter(model, make_adapter(n_points=3), "cpu", seed=seed)
        segmenter.set_plane(make_plane())
        torch.rand(seed + 1)  # torch's own generator has no say
        return segmenter.predict(Prompts("nuclei"))

    assert same(ask(0), ask(0))
    assert any(not same(ask(0), ask(seed)) for seed in range(1, 5))


# ---------------------------------------------------------------- which model answers


def test_no_word_and_no_adapter_is_the_base(segmenter: Segmenter, make_plane: MakePlane) -> None:
    segmenter.set_plane(make_plane())
    found = segmenter.predict(CLICK)

    assert (found.target, found.text, found.note) == ("object", None, "")
    assert (found.presence, found.threshold, found.similarity) == (None, None, None)
    assert len(found.objects) == 1 and len(found.alternatives) == 2


def test_a_word_does_not_change_what_the_base_makes_of_a_click(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())

    assert same(segmenter.predict(CLICK), segmenter.predict(Prompts("nuclei", points=CLICK.points)))


def test_a_word_without_an_adapter_needs_no_training(
    segmenter: Segmenter, make_plane: MakePlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.set_plane(make_plane())
    seen = prompts_seen(segmenter, monkeypatch)
    found = segmenter.predict(Prompts("nuclei"))

    assert found.target == "concept" and found.text == "nuclei"
    assert (found.presence, found.threshold) == (None, None)
    (mask,) = seen["mask"]
    assert set(mask.unique().tolist()) == {-10.0, 10.0}
    assert seen["parts"] == [(segmenter.model.sam.prompt_encoder, segmenter.model.sam.mask_decoder)]
    assert seen["kinds"][0].tolist() == [[1, 1, 1, 1, 1, -1]]
    assert seen["target"] == ["concept"]


def test_an_adapter_brings_its_own_decoder_and_prompts(
    segmenter: Segmenter,
    make_adapter: MakeAdapter,
    make_plane: MakePlane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make_adapter(n_points=3)
    segmenter.set_adapter(adapter)
    segmenter.set_plane(make_plane())
    seen = prompts_seen(segmenter, monkeypatch)
    segmenter.predict(Prompts("nuclei"))
    segmenter.predict(Prompts("nuclei", points=CLICK.points))

    assert set(seen["mask"][0].unique().tolist()) == {0.0, 255.0} and seen["mask"][1] is None
    assert seen["parts"] == [(adapter.prompt_encoder, adapter.mask_decoder)] * 2
    assert [kinds.tolist() for kinds in seen["kinds"]] == [[[1, 1, 1, -1]], [[1, -1]]]
    assert seen["target"] == ["concept", "object"]
    assert seen["multimask"] == [False, True]


def test_an_adapter_may_leave_objects_to_the_base_s_decoder(
    segmenter: Segmenter,
    make_adapter: MakeAdapter,
    make_plane: MakePlane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter, sam = make_adapter(own_objects=False, threshold=0.0), segmenter.model.sam
    segmenter.set_adapter(adapter)
    segmenter.set_plane(make_plane())
    seen = prompts_seen(segmenter, monkeypatch)
    segmenter.predict(Prompts("nuclei"))
    found = segmenter.predict(Prompts("nuclei", points=[(20, 20)]))

    own, base = ((one.prompt_encoder, one.mask_decoder) for one in (adapter, sam))
    assert seen["parts"] == [own, base]
    segmenter.set_adapter(make_adapter(threshold=0.0))
    other = segmenter.predict(Prompts("nuclei", points=[(20, 20)]))
    assert not np.array_equal(found.objects[0].logits, other.objects[0].logits)


def test_an_adapter_may_leave_objects_to_the_base_altogether(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    click = Prompts("nuclei", points=[(20, 20)])
    segmenter.set_adapter(None)
    base = {o.logits.tobytes() for o in masks_of(segmenter.predict(click))}
    for changes in ({"own_objects": False}, {"own_objects": False, "conditioned_objects": False}):
        segmenter.set_adapter(make_adapter(threshold=0.0, **changes))
        found = {o.logits.tobytes() for o in masks_of(segmenter.predict(click))}
        assert (found == base) == ("conditioned_objects" in changes)


def masks_of(prediction: Prediction) -> tuple[ObjectMask, ...]:
    """All masks of an answer."""
    return prediction.objects + prediction.alternatives


def prompts_seen(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """What the decoder is asked from now on."""
    decoder, seen = segmenter._decoder, {}
    run = decoder.run

    def spy(
        embedding: object, coords: object, kinds: object, mask: object, *rest: object
    ) -> object:
        values = zip(("coords", "kinds", "mask"), (coords, kinds, mask), strict=True)
        named = {**dict(values), "target": rest[0], "parts": decoder.parts(rest[0])}
        for name, value in named.items():
            seen.setdefault(name, []).append(value)
        seen.setdefault("multimask", []).append(rest[1])
        return run(embedding, coords, kinds, mask, *rest)

    def spy_by_name(*args: object, multimask: bool | None = None) -> object:
        return spy(*args, *([] if multimask is None else [multimask]))

    monkeypatch.setattr(decoder, "run", spy_by_name)
    return seen


def test_an_adapter_without_a_word_uses_the_last_one_and_says_so(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter(words=("cells", "nuclei")))
    segmenter.set_plane(make_plane())
    for prompts in (CLICK, None):
        found = segmenter.predict(prompts)
        assert found.text == "nuclei"
        assert "the adapter's last one, 'nuclei', was used" in found.note
    assert segmenter.predict(None).target == "concept"

    segmenter.predict(Prompts("walls"))
    assert segmenter.predict(CLICK).text == "walls"
    assert segmenter.predict(Prompts("cells")).note == ""
    segmenter.set_adapter(make_adapter(4, words=("fibres",)))
    assert segmenter.predict(CLICK).text == "fibres"
    segmenter.set_adapter(make_adapter(words=("cells", "nuclei")))
    assert segmenter.predict(CLICK).text == "cells"
    segmenter.set_adapter(None)
    assert segmenter.predict(CLICK).text is None


def test_points_before_any_word_are_the_bases_where_it_decodes_objects(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    """So that nobody waits for CLIP who only clicks."""
    segmenter.set_adapter(make_adapter(own_objects=False, words=("cells", "nuclei")))
    segmenter.set_plane(make_plane())
    found = segmenter.predict(CLICK)
    assert (found.text, found.note) == (None, "")
    assert segmenter.calls["clip"] == segmenter.calls["text"] == 0
    before = segmenter.calls["trunk"]
    segmenter.ahead.prepare(make_plane())
    assert (segmenter.calls["trunk"], segmenter.calls["clip"]) == (before, 0)

    assert segmenter.predict(Prompts(boxes=[(5, 5, 30, 40)])).text == "nuclei"
    segmenter.predict(Prompts("cells"))
    assert segmenter.predict(CLICK).text == "cells"


def test_a_word_can_be_set_for_all_prompts(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter(words=("nuclei",)))
    segmenter.set_plane(make_plane())
    segmenter.set_text(" cells ")

    assert segmenter.predict().text == segmenter.predict(CLICK).text == "cells"
    assert segmenter.predict(Prompts("walls")).text == "walls"
    segmenter.set_text(None)
    assert segmenter.predict(CLICK).text == "walls"
    with pytest.raises(PromptError, match="empty"):
        segmenter.set_text("  ")


def test_an_untrained_adapter_gives_the_bases_image_embedding(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    """And its masks too, but for the target token, which attention sees even while it is zero."""
    segmenter.set_plane(make_plane())
    base = segmenter.predict(CLICK).objects[0].logits
    with torch.random.fork_rng(devices=[]):
        untrained = {flag: make_adapter(object_mode=flag) for flag in (True, False)}
    for flag, adapter in untrained.items():
        randomise(adapter, 5)
        for layer in adapter.blocks:
            for part in (layer.regular, layer.semantic):
                part.fc2.weight.data.zero_()
                part.fc2.bias.data.zero_()
        adapter.prompt_encoder.load_state_dict(segmenter.model.sam.prompt_encoder.state_dict())
        adapter.mask_decoder.load_state_dict(segmenter.model.sam.mask_decoder.state_dict())
        if flag:
            adapter.target_token.weight.data.zero_()
        segmenter.set_adapter(adapter)
        found = segmenter.predict(Prompts("nuclei", points=CLICK.points)).objects[0].logits
        np.testing.assert_allclose(found, base, atol=0.5 if flag else 1e-5)
        assert flag == (np.abs(found - base).max() > 1e-4)
    embeddings = list(segmenter._encoder._embeddings._entries.values())
    for other in embeddings[1:]:
        torch.testing.assert_close(embeddings[0], other, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- presence and unknown words


@pytest.mark.parametrize("target", ["concept", "instances"])
def test_below_the_threshold_there_is_no_match(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane, target: str
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter(threshold=1.0))
    found = segmenter.predict(Prompts("nuclei"), target)

    assert not found.match and found.objects == () and not found.mask().any()
    assert 0 < found.presence < 1 == found.threshold
    assert found.note == f"No 'nuclei' found here (best {found.presence:.2f}, needs 1.00)."
    assert found.text == "nuclei" and found.similarity is not None


def test_the_threshold_itself_is_a_match(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter(threshold=0.0))
    low = segmenter.predict(Prompts("nuclei"))
    segmenter.set_adapter(make_adapter(threshold=low.presence))
    equal = segmenter.predict(Prompts("nuclei"))

    assert low.match and equal.match and equal.presence == equal.threshold
    assert len(equal.objects) == 1 and equal.note == ""


@pytest.mark.parametrize("changes", [{"threshold": None}, {"threshold": 0.9, "object_mode": False}])
def test_without_presence_there_is_always_an_answer(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane, changes: dict
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter(**changes))
    found = segmenter.predict(Prompts("nuclei"))

    assert found.match and found.presence is None and found.threshold is None
    assert segmenter.predict(CLICK, "object").presence is None if changes["threshold"] else True


@pytest.fixture
def closed(model: LoadedModel) -> LoadedModel:
    """The model with a CLIP that has learnt two words only."""
    return replace(model, language=tiny_clip(words=frozenset({"nuclei", "cells"})))


def build(model: LoadedModel, **info: object) -> Adapter:
    from napari_clipsam.adapters.base import AdapterConfig
    from napari_clipsam.adapters.inject import build_adapter

    adapter = build_adapter(AdapterConfig(n_conditioned=1), model.sam, model.clip, seed=0)
    randomise(adapter, 0, spread=0.3)
    return adapter.with_info(**info)


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_an_unknown_word_is_no_match(
    closed: LoadedModel, make_plane: MakePlane, threshold: float | None
) -> None:
    adapters = [build(closed, threshold=threshold)] + ([None] if threshold is None else [])
    for adapter in adapters:
        segmenter = Segmenter(closed, adapter, "cpu")
        segmenter.set_plane(make_plane())
        found = segmenter.predict(Prompts("Purple nuclei, striped"))

        assert not found.match and found.objects == ()
        assert found.presence == (None if threshold is None else 0.0)
        assert found.note.startswith("The model has not learnt 'purple', 'striped'.")
        assert not segmenter.calls


def test_a_word_the_adapter_learnt_is_known(closed: LoadedModel, make_plane: MakePlane) -> None:
    adapter = build(closed, words=("Striped  things",))
    adapter.teach("purple nuclei")
    segmenter = Segmenter(closed, adapter, "cpu")
    segmenter.set_plane(make_plane())

    for known in ("Purple  nuclei", "striped things", "nuclei"):
        assert "not learnt" not in segmenter.predict(Prompts(known)).note
    assert "not learnt 'purple'." in segmenter.predict(Prompts("purple")).note
    assert segmenter.known_words == ["Striped  things"]


def test_a_taught_word_has_its_own_vector(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    plain, taught = make_adapter(), make_adapter()
    with torch.no_grad():
        taught.teach("nuclei").normal_(generator=torch.Generator().manual_seed(0))
    answers = []
    for adapter in (plain, taught):
        segmenter.set_adapter(adapter)
        answers.append([segmenter.predict(Prompts(word)) for word in ("nuclei", "cells")])

    assert not same(answers[0][0], answers[1][0])
    assert same(answers[0][1], answers[1][1])


def test_a_click_with_an_unknown_word_uses_the_last_known_one(
    closed: LoadedModel, make_plane: MakePlane
) -> None:
    segmenter = Segmenter(closed, build(closed, words=("nuclei",)), "cpu")
    segmenter.set_plane(make_plane())
    segmenter.predict(Prompts("cells"))
    found = segmenter.predict(Prompts("purple", points=CLICK.points))

    assert found.match and found.text == "cells"
    assert found.note == "The model has not learnt 'purple'; 'cells' was used in its place."
    assert same(found, segmenter.predict(Prompts("cells", points=CLICK.points)))


# ---------------------------------------------------------------- prompts


def test_the_users_points_replace_those_drawn(
    segmenter: Segmenter,
    make_adapter: MakeAdapter,
    make_plane: MakePlane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segmenter.set_adapter(make_adapter(n_points=2))
    segmenter.set_plane(make_plane((96, 128)))  # shown at half its size
    seen = prompts_seen(segmenter, monkeypatch)
    points = [(20, 30), (95.5, 60), (2, 4)]
    segmenter.predict(Prompts("nuclei", points, [1, 1, 0]), "concept")
    segmenter.predict(Prompts("nuclei", points[2:], [0]), "concept")
    segmenter.predict(Prompts("nuclei"))

    manual, negative, drawn = seen["coords"]
    assert manual.tolist() == [[[15.0, 10.0], [30.0, 47.75], [2.0, 1.0], [0, 0]]]
    assert [kinds.tolist() for kinds in seen["kinds"]] == [
        [[1, 1, 0, -1]],
        [[1, 1, 0, -1]],
        [[1, 1, -1]],
    ]
    assert negative.tolist() == [[*drawn[0, :2].tolist(), [2.0, 1.0], [0, 0]]]


def test_several_boxes_give_several_objects(segmenter: Segmenter, make_plane: MakePlane) -> None:
    segmenter.set_plane(make_plane())
    boxes = [(1, 2, 20, 30), (15, 20, 48, 64), (30, 5, 40, 60)]
    found = segmenter.predict(Prompts(points=[(10, 10)], boxes=boxes))
    alone = [
        segmenter.predict(Prompts(points=[(10, 10)], boxes=boxes[:1])),
        *(segmenter.predict(Prompts(boxes=[box])) for box in boxes[1:]),
    ]

    assert len(found.objects) == 3 and found.alternatives == ()
    for one, other in zip(found.objects, alone, strict=True):
        np.testing.assert_allclose(one.logits, other.objects[0].logits, atol=1e-5)
    assert set(np.unique(found.labels())) <= {0, 1, 2, 3}


def test_the_best_of_three_comes_first(segmenter: Segmenter, make_plane: MakePlane) -> None:
    segmenter.set_plane(make_plane())
    found = segmenter.predict(CLICK)
    scores = [*found.scores, *(one.score for one in found.alternatives)]

    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("prompts", "target", "error", "match"),
    [
        (Prompts(), None, PromptError, "To find concept a word is needed"),
        (Prompts(), "instances", PromptError, "To find instances a word is needed"),
        (Prompts("nuclei"), "object", PromptError, "nothing to go by"),
        (Prompts("nuclei", boxes=[(0, 0, 9, 9)]), "concept", PromptError, "cannot guide concept"),
        (CLICK, "thing", PromptError, "no target 'thing'"),
        (Prompts(points=[(48, 3)]), None, PromptError, "outside the image of 48 x 64"),
        (Prompts(boxes=[(60, 3, 70, 9)]), None, PromptError, "misses the image"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    segmenter: Segmenter,
    make_plane: MakePlane,
    prompts: Prompts,
    target: str | None,
    error: type[Exception],
    match: str,
) -> None:
    segmenter.set_plane(make_plane())
    with pytest.raises(error, match=match):
        segmenter.predict(prompts, target)

    assert not segmenter.calls


def test_a_plane_comes_first(segmenter: Segmenter) -> None:
    with pytest.raises(PlaneError, match=r"Call set_plane\(\.\.\.\) before predict"):
        segmenter.predict(CLICK)


def test_a_click_with_an_adapter_needs_a_word(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter())

    with pytest.raises(WordError, match="trained for no word"):
        segmenter.predict(CLICK)


def test_a_box_far_beyond_the_plane_is_only_far(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    found = segmenter.predict(Prompts(boxes=[(0, 0, 1e300, 1e300)]))

    assert np.isfinite(found.objects[0].logits).all()


def test_a_mask_prompt_may_be_very_sure(segmenter: Segmenter, make_plane: MakePlane) -> None:
    segmenter.set_plane(make_plane())
    sure = np.where(np.indices((48, 64))[0] < 20, 3e38, -3e38).astype(np.float32)
    found = segmenter.predict(Prompts(mask=sure))
    assert np.isfinite(found.objects[0].logits).all()

    with np.errstate(over="ignore"):
        beyond = Prompts(mask=sure * np.float64(1e9))
    with pytest.raises(PromptError, match="beyond float32"):
        segmenter.predict(beyond)


def test_a_frozen_request_needs_no_plane_of_its_own(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    answer = segmenter.answer(PredictRequest(make_plane(), CLICK))
    segmenter.set_plane(make_plane())

    assert same(answer, segmenter.predict(CLICK))


# ---------------------------------------------------------------- earlier masks


def test_an_earlier_mask_takes_part(segmenter: Segmenter, make_plane: MakePlane) -> None:
    segmenter.set_plane(make_plane())
    earlier = segmenter.predict(CLICK).objects[0]
    more = Prompts(points=[(20, 30), (5, 5)], labels=[1, 0])

    refined = segmenter.predict(more, previous=earlier)
    assert not same(refined, segmenter.predict(more))
    assert refined.objects[0].frame == earlier.frame


@pytest.mark.parametrize(
    "changes",
    [{"logits": None}, {"frame": None}, {"logits": np.zeros((4, 4), np.float32)}],
    ids=lambda c: next(iter(c)),
)
def test_an_earlier_mask_without_fitting_logits_is_taken_by_its_pixels(
    segmenter: Segmenter, make_plane: MakePlane, changes: dict
) -> None:
    segmenter.set_plane(make_plane())
    mask = np.zeros((48, 64), bool)
    mask[10:30, 20:50] = True
    logits = np.full((32, 32), 3.0, np.float32)
    wanted = segmenter.predict(Prompts(points=CLICK.points, mask=mask))
    frame = wanted.objects[0].frame
    earlier = ObjectMask((10, 20, 30, 50), mask[10:30, 20:50], 0.5, logits, frame)

    found = segmenter.predict(CLICK, previous=replace(earlier, **changes))
    assert same(found, wanted)
    assert not same(found, segmenter.predict(CLICK, previous=earlier))


def test_an_earlier_mask_that_is_empty_says_nothing_without_its_logits(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    frame = segmenter.predict(CLICK).objects[0].frame
    small = np.full((4, 4), -3.0, np.float32)
    empty = ObjectMask((0, 0, 0, 0), np.zeros((0, 0), bool), 0.5, small, frame)

    assert same(segmenter.predict(CLICK, previous=empty), segmenter.predict(CLICK))
    with pytest.raises(PromptError, match="earlier mask is empty"):
        segmenter.predict(previous=empty)


def test_a_click_beside_the_earlier_frame_finds_another(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane((300, 300)))
    found = segmenter.predict(Prompts(points=[(30, 30)])).objects[0]
    earlier = replace(found, box=(5, 20, 45, 60), mask=np.ones((40, 40), bool))
    near = segmenter.predict(Prompts(points=[(30, 30), (40, 20)]), previous=earlier).objects[0]
    far = segmenter.predict(Prompts(points=[(30, 30), (200, 210)]), previous=earlier).objects[0]

    assert near.frame == earlier.frame
    assert far.frame != earlier.frame
    (rows, cols), (y0, x0, y1, x1) = far.frame.slices, earlier.box
    assert rows.start <= 30 and rows.stop > 200 and cols.start <= 30 and cols.stop > 210
    assert rows.start <= y0 and y1 <= rows.stop and cols.start <= x0 and x1 <= cols.stop


# ---------------------------------------------------------------- planes of any kind


def test_a_click_in_a_large_plane_is_one_on_the_part_that_is_shown(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    plane = make_plane((260, 300))
    for prompts in (
        Prompts(points=[(130, 140)]),
        Prompts(points=[(3, 299)]),
        Prompts(points=[(130, 140), (133, 150)], labels=[1, 0], boxes=[(120, 130, 170, 250)]),
    ):
        segmenter.set_plane(plane)
        found = segmenter.predict(prompts).objects[0]
        y, x = found.frame.origin
        segmenter.set_plane(plane.rgb[found.frame.slices])
        alone = segmenter.predict(prompts.shifted(-y, -x)).objects[0]

        np.testing.assert_array_equal(found.logits, alone.logits)
        y0, x0, y1, x1 = alone.box
        if found.area:
            assert found.box == (y0 + y, x0 + x, y1 + y, x1 + x)
            np.testing.assert_array_equal(found.mask, alone.mask)


@pytest.mark.parametrize("shape", [(48, 64), (300, 50)])
def test_an_adapter_that_squashes_planes_gets_them_squashed(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane, shape: tuple[int, int]
) -> None:
    segmenter.set_adapter(make_adapter(squash=True, words=("nuclei",)))
    segmenter.set_plane(make_plane(shape))
    earlier = segmenter.predict(CLICK).objects[0]
    segmenter.predict(Prompts("nuclei"))
    frames = {key[1] for key in segmenter._encoder._trunks._entries}

    assert earlier.frame in frames and all(frame.squash for frame in frames)
    segmenter.set_adapter(make_adapter(words=("nuclei",)))
    assert not segmenter.predict(CLICK, previous=earlier).objects[0].frame.squash


def test_large_planes_are_searched_tile_by_tile(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter(threshold=0.0))
    segmenter.set_plane(make_plane((130, 200)))
    told: list[tuple[int, int]] = []
    for target in ("concept", "instances"):
        found = segmenter.predict(
            Prompts("nuclei"), target, progress=lambda *done: told.append(done)
        )
        assert found.shape == found.mask().shape == (130, 200) and found.presence is not None

    assert told == [(i + 1, 12) for i in range(12)] * 2
    assert segmenter.calls["trunk"] == segmenter.calls["head"] == 12


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 1), np.uint8),
        np.zeros((40, 30), np.uint16),
        np.full((20, 30), np.nan, np.float32),
        np.full((20, 30, 3), 255, np.uint8),
        np.array([[np.inf, -np.inf], [np.nan, 1.0]]),
        np.zeros((1, 300), np.uint8),
    ],
    ids=["1 x 1", "zero", "nan", "white", "infinite", "a line"],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_planes_that_show_nothing_have_an_answer(
    segmenter: Segmenter, make_adapter: MakeAdapter, array: np.ndarray, adapted: bool
) -> None:
    if adapted:
        segmenter.set_adapter(make_adapter(threshold=0.0))
    segmenter.set_plane(array)
    shape = array.shape[:2]
    for prompts, target in (
        (Prompts("nuclei"), "concept"),
        (Prompts("nuclei"), "instances"),
        (Prompts("nuclei", points=[(0, 0)]), "object"),
        (Prompts("nuclei", boxes=[(0, 0, *shape)]), "object"),
        (Prompts("nuclei", mask=np.ones(shape, bool)), "object"),
    ):
        found = segmenter.predict(prompts, target)
        assert found.shape == found.mask().shape == found.labels().shape == shape
        assert np.isfinite(found.scores).all()
        assert found.presence is None or np.isfinite(found.presence)
        for one in (*found.objects, *found.alternatives):
            assert one.logits is None or np.isfinite(one.logits).all()


@pytest.mark.parametrize(
    ("shape", "patches"), [((48, 64), (6, 8)), ((64, 16), (8, 2)), ((33, 64), (5, 8))]
)
def test_the_similarity_map_shows_the_plane_alone(
    segmenter: Segmenter, make_plane: MakePlane, shape: tuple[int, int], patches: tuple[int, int]
) -> None:
    segmenter.set_plane(make_plane(shape))
    similarity = segmenter.predict(Prompts("nuclei")).similarity

    assert similarity.shape == patches and similarity.dtype == np.float32
    assert (similarity.min(), similarity.max()) == (0, 1)


def test_similarity_comes_before_the_masks_and_is_theirs(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_adapter(make_adapter(threshold=0.0))
    plane = make_plane()
    before = segmenter.similarity(plane, "nuclei")
    assert segmenter.calls["trunk"] == segmenter.calls["decode"] == 0
    segmenter.set_plane(plane)

    assert np.array_equal(before, segmenter.predict(Prompts("nuclei")).similarity)
    assert segmenter.similarity(make_plane((300, 300)), "nuclei") is None


def test_an_adapter_looks_at_clicks_at_the_plane_s_own_scale(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane((100, 90)))
    assert segmenter.predict(CLICK).objects[0].frame.shape == (100, 90), "as SAM does"
    segmenter.set_adapter(make_adapter())
    assert segmenter.predict(Prompts("nuclei", CLICK.points)).objects[0].frame.shape == (64, 64)


@pytest.mark.parametrize("seed", [0, 4])
def test_an_adapter_prefers_masks_that_are_stable(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane, seed: int
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.set_adapter(make_adapter(seed))
    found = segmenter.predict(Prompts("nuclei", points=[(20, 20)]))
    ranks = []
    for one in (*found.objects, *found.alternatives):
        inner, outer = ((one.logits > level).sum() for level in (1, -1))
        ranks.append(one.score * inner / max(1, outer))
    assert len(ranks) == 3 and ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize("word", [None, "nuclei"])
@pytest.mark.parametrize("adapted", [False, True])
def test_a_click_in_a_prepared_plane_is_only_decoded(
    segmenter: Segmenter,
    make_adapter: MakeAdapter,
    make_plane: MakePlane,
    word: str | None,
    adapted: bool,
) -> None:
    segmenter.set_adapter(make_adapter(words=("nuclei",)) if adapted else None)
    plane = make_plane()
    segmenter.ahead.prepare(plane, word)
    segmenter.set_plane(plane)
    assert +spent(segmenter, Prompts(word, points=[(20, 20)])) == {"decode": 1}


def test_what_cannot_be_prepared_is_left_to_the_click(
    segmenter: Segmenter, make_adapter: MakeAdapter, make_plane: MakePlane
) -> None:
    segmenter.ahead.prepare(make_plane((300, 300)))
    segmenter.set_adapter(make_adapter())
    segmenter.ahead.prepare(make_plane())
    assert segmenter.calls["trunk"] == 0


@pytest.mark.parametrize(
    "part",
    [
        "image_encoder.neck.0.weight",
        "mask_decoder.iou_prediction_head.layers.0.bias",
        "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_networks_with_broken_weights_give_an_error_and_no_mask(
    model: LoadedModel, make_plane: MakePlane, part: str, value: float
) -> None:
    segmenter = Segmenter(model, None, "cpu")
    segmenter.set_plane(make_plane())
    weights = model.sam.get_parameter(part)
    before = weights.detach().clone()
    weights.data.fill_(value)
    with pytest.raises(ClipSamError, match="not finite"):
        segmenter.predict(CLICK)
    weights.data.copy_(before)

    assert np.isfinite(segmenter.predict(CLICK).scores).all()


def test_a_refused_prompt_costs_nothing_that_was_kept(
    segmenter: Segmenter, make_plane: MakePlane
) -> None:
    segmenter.set_plane(make_plane())
    segmenter.predict(CLICK)
    with pytest.raises(PromptError):
        segmenter.predict(Prompts(points=[(999, 9)]))

    assert spent(segmenter, CLICK) == {"decode": 1}


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"device": "tpu"}, "no device 'tpu'"), ({"precision": "fp8"}, "no precision 'fp8'")],
)
def test_settings_that_do_not_exist_are_refused(
    model: LoadedModel, settings: dict, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        Segmenter(model, **{"device": "cpu", **settings})


# ---------------------------------------------------------------- adapters by name


def test_adapters_come_from_files_and_have_names(
    model: LoadedModel, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    path = save_adapter(make_adapter(), tmp_path / "mitosis.safetensors", half=False)
    segmenter = Segmenter(replace(model, adapter_path=path), device="cpu")

    assert segmenter.adapter_name == "tiny" and segmenter.adapter is not None
    segmenter.set_adapter(None)
    assert (segmenter.adapter_name, segmenter.adapter) == ("none", None)
    segmenter.set_adapter(str(path))
    assert segmenter.adapter_name == "mitosis"
    segmenter.set_adapter(make_adapter())
    assert segmenter.adapter_name == "in memory"
    segmenter.set_adapter("default")
    assert segmenter.adapter_name == "tiny"


def test_an_adapter_of_another_model_is_refused_and_the_former_stays(
    segmenter: Segmenter, model: LoadedModel, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    segmenter.set_adapter(make_adapter())
    former = segmenter.adapter
    foreign = build(replace(model, sam=tiny_sam(seed=9)))
    other_clip = build(replace(model, language=tiny_clip(seed=9)))
    path = save_adapter(foreign, tmp_path / "foreign.safetensors")
    for adapter, what in ((foreign, "base model"), (other_clip, "CLIP"), (path, "base model")):
        with pytest.raises(AdapterError, match=f"belongs to another {what}"):
            segmenter.set_adapter(adapter)
        assert segmenter.adapter is former and segmenter.adapter_name == "in memory"


def test_planes_may_be_arrays(segmenter: Segmenter) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (30, 40), dtype=np.uint16)
    segmenter.set_plane(array)
    found = segmenter.predict(CLICK)
    segmenter.set_plane(open_image(array).plane())

    assert found.shape == (30, 40) and same(found, segmenter.predict(CLICK))
