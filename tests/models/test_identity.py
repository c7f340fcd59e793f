"""Identities of weights: equal for equal values, and for nothing else."""

from collections.abc import Callable

import pytest
import torch
from tiny import tiny_clip, tiny_sam
from torch import Tensor

from napari_clipsam.models.identity import tensor_identity


def state() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3), "none": torch.zeros(0, 2)}


def test_does_not_depend_on_order_precision_of_storage_or_layout() -> None:
    other = dict(reversed(state().items()))
    other["a"] = state()["a"].half()
    other["none"] = torch.zeros(0, 2)
    transposed = {**state(), "a": state()["a"].T.contiguous().T}

    assert tensor_identity(state()) == tensor_identity(other) == tensor_identity(transposed)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "a": s["a"] + 1e-6},
        lambda s: {**s, "a": s["a"].reshape(3, 2)},
        lambda s: {"b": s["a"], "n": s["n"], "none": s["none"]},
        lambda s: {"a": s["a"], "n": s["n"]},
        lambda s: {**s, "n": torch.tensor(4)},
    ],
)
def test_differs_by_value_shape_name_and_number(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    assert tensor_identity(change(state())) != tensor_identity(state())


def test_is_the_same_in_every_process() -> None:
    assert tensor_identity(state()) == "d30aedc7b90746f17d6d047a7cdee2bb"


def test_a_sam_is_told_by_its_encoder_alone() -> None:
    sam, other = tiny_sam(0), tiny_sam(0)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight += 1

    assert sam.identity == other.identity
    assert sam.identity != tiny_sam(1).identity


def test_a_clip_is_told_by_both_towers() -> None:
    clip, other = tiny_clip(0), tiny_clip(0)
    with torch.no_grad():
        other.model.text_projection += 1

    assert clip.identity == tiny_clip(0).identity
    assert clip.identity != other.identity
