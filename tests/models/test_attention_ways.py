"""Ways to attend: all give the same, and the fastest is found once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from napari_clipsam.models import attention_ways as ways
from napari_clipsam.models.attention_ways import WAYS, fastest, in_parts, with_columns, with_masks

Call = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]


def call(
    queries: int = 28, grid: tuple[int, int] = (4, 7), d: int = 6, lot: tuple[int, int] = (2, 3)
) -> Call:
    h, w = grid
    shapes = ((queries, d), (h * w, d), (h * w, d), (queries, h), (queries, w))
    return (*(torch.randn(*lot, *shape) for shape in shapes), 0.4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """Seconds that every way seems to take; all that is measured is the test's own."""
    seconds, now = dict.fromkeys(WAYS, 1.0), [0.0]

    def slowed(name: str) -> ways.Way:
        real = WAYS[name]

        def run(*args: Tensor) -> Tensor:
            now[0] += seconds[name]
            return real(*args)

        return run

    monkeypatch.setattr(ways, "WAYS", {name: slowed(name) for name in WAYS})
    monkeypatch.setattr(ways.time, "thread_time", lambda: now[0])
    monkeypatch.setattr(ways, "_chosen", {})
    monkeypatch.setattr(ways, "_MANY", 28)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path))
    monkeypatch.delenv("NAPARI_CLIPSAM_ATTENTION")
    return seconds


def taken(*args: object) -> str:
    way = fastest(*(args or call()))  # type: ignore[arg-type]
    return next(name for name, known in ways.WAYS.items() if known is way)


@pytest.mark.parametrize("queries", [28, 9])
@pytest.mark.parametrize("held", [1, 28 * 5, 1 << 20])
def test_all_ways_give_the_same(queries: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_MASK_ENTRIES", held)
    monkeypatch.setattr(ways, "_LOGITS", held)
    q, k, v, rows, cols, scale = call(queries)
    bias = rows[..., :, None] + cols[..., None, :]
    wanted = (q @ k.transpose(2, 3) * scale + bias.flatten(3)).softmax(dim=-1) @ v

    for way in (with_masks, with_columns, in_parts):
        torch.testing.assert_close(way(q, k, v, rows, cols, scale), wanted, atol=1e-5, rtol=0)


def test_the_fastest_is_measured_once_and_found_again(
    clock: dict[str, float], tmp_path: Path
) -> None:
    clock["parts"] = 0.5
    assert taken() == "parts"
    clock["parts"] = 2.0
    assert taken() == "parts"

    ways._chosen.clear()
    assert taken() == "parts"
    assert list(json.loads((tmp_path / "attention.json").read_text()).values()) == ["parts"]
    assert [file.name for file in tmp_path.iterdir()] == ["attention.json"]


@pytest.mark.parametrize(("seconds", "way"), [(0.97, "masks"), (0.9, "parts"), (1.5, "masks")])
def test_what_gains_little_is_not_taken(clock: dict[str, float], seconds: float, way: str) -> None:
    clock["parts"] = seconds

    assert taken() == way


def test_each_shape_is_measured_on_its_own(clock: dict[str, float]) -> None:
    clock["parts"] = 0.5
    assert taken() == "parts"
    clock["parts"] = 2.0

    assert taken(*call(grid=(5, 7))) == "masks"


def test_how_many_heads_of_how_many_images_matters_roughly(clock: dict[str, float]) -> None:
    clock["parts"] = 0.5
    assert taken(*call(lot=(2, 3))) == "parts"
    clock["parts"] = 2.0

    assert taken(*call(lot=(1, 8))) == taken(*call(lot=(5, 1))) == "parts"
    assert taken(*call(lot=(1, 4))) == taken(*call(lot=(3, 3))) == "masks"


def test_another_processor_with_the_same_folder_measures_on_its_own(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "processor_name", lambda: "one")
    clock["parts"] = 0.5
    assert taken() == "parts"
    clock["parts"] = 2.0
    monkeypatch.setattr(ways, "processor_name", lambda: "another")

    assert taken() == "masks"


def test_nothing_is_measured_where_it_does_not_pay(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock["parts"] = 0.1
    few = call(grid=(3, 7))
    half = (*(x.bfloat16() for x in call()[:5]), 0.4)
    q, k, v, rows, cols, scale = call()
    training = q, k, v, rows.requires_grad_(), cols, scale

    assert taken(*few) == taken(*half) == "masks"
    assert taken(*training) == "columns"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert taken() == "masks"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[1]", '{"x": 3', '{"x": ["parts"]}', "\x00"])
def test_a_damaged_file_is_measured_anew(
    clock: dict[str, float], tmp_path: Path, content: str
) -> None:
    (tmp_path / "attention.json").write_text(content)
    clock["parts"] = 0.5

    assert taken() == "parts"
    assert "parts" in json.loads((tmp_path / "attention.json").read_text()).values()


def test_where_nothing_can_be_kept_the_session_knows(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NAPARI_CLIPSAM_HOME", str(tmp_path / "file"))
    clock["parts"] = 0.5
    assert taken() == "parts"
    clock["parts"] = 2.0

    assert taken() == "parts"


@pytest.mark.parametrize(("asked", "way"), [*((name, name) for name in WAYS), ("default", "masks")])
def test_the_environment_decides(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch, asked: str, way: str
) -> None:
    clock["parts"] = 0.1
    monkeypatch.setenv("NAPARI_CLIPSAM_ATTENTION", asked)

    assert taken() == way
