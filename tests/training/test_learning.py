from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from lessons import example, tiny_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_clipsam.models.registry import LoadedModel
from napari_clipsam.training.learner import HeadLearner
from napari_clipsam.training.learning import Means, bytes_kept
from napari_clipsam.training.material import Material
from napari_clipsam.training.settings import FitSettings
from napari_clipsam.training.starting import prepare_adapter
from napari_clipsam.training.views import ViewMaker, gather

CPU = torch.device("cpu")
SETTINGS = FitSettings(steps=1, clip_tuning="none")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def make(model: LoadedModel, batch: int, settings: FitSettings = SETTINGS) -> HeadLearner:
    adapter = prepare_adapter(model, None, settings, 2)
    examples = [example(0), example(1)]
    maker = ViewMaker(model, adapter, CPU, torch.float32, True, lambda: None)
    views = list(maker.views(examples, 2, 0, False))
    words = [e.words for e in examples]
    material = Material(model, adapter, views, words, 0, CPU, torch.float32, batch, lambda: None)
    return HeadLearner(material, settings)


def test_a_batch_that_does_not_fit_is_taken_in_parts(model: LoadedModel) -> None:
    learner = make(model, batch=4)
    views = learner.material.draw()
    networks = (model.sam, model.clip, learner.material.adapter)
    one = bytes_kept(lambda: learner.terms(views[:1], 1.0), networks)
    for free, micro in ((100 * one, 4), (int(2.5 * one), 2), (1, 1)):
        learner.micro = learner.material.batch
        learner.fit_memory(free)
        assert learner.micro == micro
        assert learner.step(0.5)["loss"].isfinite()


def test_where_one_view_does_not_fit_blocks_are_run_again(model: LoadedModel) -> None:
    settings = replace(SETTINGS, n_conditioned=model.sam.config.depth)
    learner = make(model, batch=1, settings=settings)
    networks = (model.sam, model.clip, learner.material.adapter)
    views, state = learner.material.draw(), learner.material.generator.get_state()
    kept, gradients = [], []
    for recompute in (False, True):
        learner.recompute = recompute
        learner.material.generator.set_state(state)
        kept.append(bytes_kept(lambda: learner.terms(views, 1.0), networks))
        learner.material.generator.set_state(state)
        learner.optimizer.zero_grad()
        learner.terms(views, 1.0)["loss"].backward()
        gradients.append([p.grad for p in learner.parameters if p.grad is not None])
    assert kept[1] < 0.8 * kept[0]
    torch.testing.assert_close(gradients[1], gradients[0])
    learner.fit_memory(kept[0] - 1)
    assert learner.recompute and learner.step(0.5)["loss"].isfinite()
    learner.fit_memory(1 << 40)
    assert not learner.recompute


def test_choosing_the_parts_draws_nothing(model: LoadedModel) -> None:
    learner = make(model, batch=4)
    before = learner.material.generator.get_state()
    learner.fit_memory(1 << 30)
    assert torch.equal(learner.material.generator.get_state(), before)


def test_what_is_kept_is_counted_once_and_without_weights() -> None:
    layer = nn.Linear(100, 50)
    x = torch.randn(8, 100)

    def work() -> torch.Tensor:
        hidden = layer(x)
        return (hidden.sigmoid() + hidden.sigmoid()).sum()

    # The input of the layer, and the result of each sigmoid.
    assert bytes_kept(work, [layer]) == 4 * (8 * 100 + 2 * 8 * 50)


def test_the_rate_rises_and_falls(model: LoadedModel) -> None:
    learner = make(model, batch=1)
    rates = []
    for i in range(40):
        learner.step(i / 40)
        rates.append(max(group["lr"] for group in learner.optimizer.param_groups))
    highest = rates.index(max(rates))
    assert 3 < highest < 15
    assert rates[:highest] == sorted(rates[:highest])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[-1] < 0.1 * SETTINGS.rate


def test_the_average_follows(model: LoadedModel) -> None:
    learner = make(model, batch=1, settings=replace(SETTINGS, rate=1e-2))
    start = learner.average.mask_decoder.iou_token.weight.clone()
    for _ in range(5):
        learner.step(0.5)
    now = learner.material.adapter.mask_decoder.iou_token.weight
    average = learner.average.mask_decoder.iou_token.weight
    assert 0 < (average - start).norm() < (now - start).norm()


def test_what_was_counted_is_let_go() -> None:
    outputs = []

    def work() -> None:
        output = torch.ones(8, requires_grad=True).exp()  # keeps its own result for the gradient
        outputs.append(weakref.ref(output))

    assert bytes_kept(work, []) == 4 * 8
    gc.collect()
    assert outputs[0]() is None


class Reads(TorchDispatchMode):
    """Counts what would make a GPU wait: values that are read, or shapes that depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        # Drawn on the host, for the host; kept, so that no address is used twice.
        self.drawn: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        of_host = bool(tensors) and all(id(one) in self.drawn for one in tensors)
        by_mask = name.startswith("index") and any(one.dtype == torch.bool for one in tensors[1:])
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal") or by_mask:
            self.waits += [] if of_host else [name]
        elif name.startswith(("unique", "_unique")):
            self.waits.append(name)
        result = func(*args, **kwargs)
        drawn = "generator" in func._overloadname and isinstance(result, Tensor)
        if isinstance(result, Tensor) and (of_host or (drawn and result.dim() == 0)):
            self.drawn[id(result)] = result
        return result


@pytest.mark.parametrize("goal", ["concept", "object", "both"])
def test_no_step_waits_for_the_device(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, goal: str
) -> None:
    def one_hot(index: Tensor, classes: int) -> Tensor:
        return (index[..., None] == torch.arange(classes)).long()

    # On CPUs alone torch's own looks at its values.
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)
    learner = make(model, batch=2, settings=replace(SETTINGS, goal=goal))
    means, reads = Means(), Reads()
    # Facts of a view are found once.
    gather(learner.material.views)
    with reads:
        for step in range(12):
            means.add(learner.step(step / 12))
    assert reads.waits == []
    assert all(np.isfinite(list(means.take().values())))
    assert means.take() == {}
    with reads:
        bool(next(learner.material.adapter.parameters()).sum() > 0)
    assert reads.waits == ["_local_scalar_dense"]


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(model: LoadedModel, fused: bool) -> None:
    learner = make(model, batch=1)
    if not fused:
        learner._fused = False
        for group in learner.optimizer.param_groups:
            group["fused"] = False
    assert learner.step(0.5)["loss"].isfinite()
    before = {name: value.clone() for name, value in learner.material.adapter.state_dict().items()}
    terms = HeadLearner.terms
    learner.terms = lambda *given: {k: v * torch.inf for k, v in terms(learner, *given).items()}
    assert not learner.step(0.5)["loss"].isfinite()
    for name, value in learner.material.adapter.state_dict().items():
        assert torch.equal(value, before[name]), name
