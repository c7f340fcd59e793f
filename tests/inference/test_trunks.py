"""The cache of tensors: what it keeps, what it forgets, and that a hit equals a miss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_clipsam.inference.trunks import TensorCache


def fail() -> Tensor:
    raise AssertionError("made again")


def of_bytes(n: int) -> Tensor:
    return torch.zeros(n // 4)


def test_a_value_is_made_once() -> None:
    cache = TensorCache(1000)
    first = cache.get("a", lambda: torch.ones(3))

    assert cache.get("a", fail) is first


def test_the_least_recently_used_goes_first() -> None:
    cache = TensorCache(1200)
    for key in "abc":
        cache.get(key, lambda: of_bytes(400))
    cache.get("a", fail)
    cache.get("d", lambda: of_bytes(400))

    assert (len(cache), cache.bytes) == (3, 1200)
    for key in "cad":
        cache.get(key, fail)
    made = []
    cache.get("b", lambda: made.append(1) or of_bytes(400))
    assert made


def test_the_newest_stays_however_large() -> None:
    cache = TensorCache(0)
    cache.get("small", lambda: of_bytes(400))
    cache.get("large", lambda: of_bytes(40_000))

    assert (len(cache), cache.bytes) == (1, 40_000)
    cache.get("large", fail)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=60))
def test_bytes_are_those_of_the_entries_and_bounded(uses: list[tuple[int, int]]) -> None:
    cache, sizes = TensorCache(100 * 4), {}
    for key, n in uses:
        sizes[key] = cache.get(key, lambda n=n: torch.zeros(n)).nbytes

        assert cache.bytes <= 400
        assert cache.bytes == sum(entry.nbytes for entry in cache._entries.values())
        assert next(reversed(cache._entries)) == key


def test_a_hit_and_a_miss_are_rounded_alike() -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    cache = TensorCache(10_000, torch.float16)
    miss, hit = cache.get("a", lambda: exact), cache.get("a", fail)

    assert miss.dtype == torch.float16
    assert torch.equal(miss, hit)
    assert torch.equal(TensorCache(10_000).get("a", lambda: exact), exact)


def test_values_beyond_half_precision_stay_finite() -> None:
    wild = torch.tensor([1e6, -1e6, 2.0]).bfloat16()
    kept = TensorCache(100, torch.float16).get("a", lambda: wild)

    assert kept.tolist() == [65504.0, -65504.0, 2.0]


def test_what_fails_leaves_nothing_behind() -> None:
    cache = TensorCache(1000)
    with pytest.raises(AssertionError, match="made again"):
        cache.get("a", fail)

    assert (len(cache), cache.bytes) == (0, 0)
    assert cache.get("a", lambda: torch.ones(2)).sum() == 2


def test_what_was_made_meanwhile_is_kept_once() -> None:
    cache = TensorCache(1000)

    def interrupted() -> Tensor:
        cache.get("a", lambda: of_bytes(400))
        return of_bytes(400)

    assert cache.get("a", interrupted) is cache.get("a", fail)
    assert (len(cache), cache.bytes) == (1, 400)


def test_what_is_filled_twice_is_counted_once() -> None:
    cache = TensorCache(1000)
    cache.fill("aab", lambda which: torch.zeros(len(which), 10))
    assert (len(cache), cache.bytes) == (2, 80)


def test_clearing_forgets_everything() -> None:
    cache = TensorCache(1000)
    cache.get("a", lambda: of_bytes(400))
    cache.clear()

    assert (len(cache), cache.bytes) == (0, 0)
