"""What is packed comes back, whatever version packed it, and damaged bytes are told from whole ones."""

from __future__ import annotations

import math
import struct
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.store.packing import (
    compress,
    decompress,
    pack_beside,
    pack_entropies,
    pack_ints,
    pack_logprobs,
    unpack_beside,
    unpack_entropies,
    unpack_ints,
    unpack_logprobs,
)
from tests.store.strategies import UNIT


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    assert decompress(compress(data)) == data


@given(st.binary(max_size=500), st.data())
def test_bytes_cut_off_anywhere_are_refused(data: bytes, draw: st.DataObject) -> None:
    packed = compress(data)
    with pytest.raises(ValueError, match="cannot be read"):
        decompress(packed[: draw.draw(st.integers(0, len(packed) - 1))])


@given(st.lists(st.integers(0, 2**16 - 1)), st.data())
def test_a_flipped_bit_is_refused_or_harmless(values: list[int], draw: st.DataObject) -> None:
    packed = bytearray(pack_ints(values))
    bit = draw.draw(st.integers(8, 8 * len(packed) - 1))  # behind the number of planes
    packed[bit // 8] ^= 1 << bit % 8
    try:
        found = list(unpack_ints(bytes(packed)))
    except ValueError as error:
        assert "cannot be read" in str(error)
    else:
        assert found == values


@given(st.binary(), st.binary(min_size=1))
def test_bytes_that_go_on_are_refused(data: bytes, more: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        decompress(compress(data) + more)


@given(st.binary(max_size=80))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    try:
        unpack_ints(data)
    except ValueError as error:
        assert str(error)


@given(st.lists(st.integers(0, 2**16 - 1)))
def test_ids_of_small_vocabularies_leave_out_what_is_always_zero(values: list[int]) -> None:
    packed = pack_ints(values)
    assert packed[0] == 2 and list(unpack_ints(packed)) == values


def test_threads_pack_side_by_side() -> None:
    values = [[number * place % 50_000 for place in range(5_000)] for number in range(8)]
    found: list[bool] = []

    def work(mine: list[int]) -> None:
        found.append(all(list(unpack_ints(pack_ints(mine))) == mine for _ in range(20)))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_ints_come_back(values: list[int]) -> None:
    assert list(unpack_ints(pack_ints(values))) == values


@given(st.floats(-1000, 0))
def test_logprobs_are_rounded_to_the_nearest_multiple(value: float) -> None:
    (back,) = unpack_logprobs(pack_logprobs([value]))
    assert abs(back - value) <= UNIT / 2
    assert (back / UNIT).is_integer()


@given(st.lists(st.floats(-32_767, 32_767) | st.just(-0.0)))
def test_many_logprobs_are_rounded_as_one_by_one(values: list[float]) -> None:
    assert unpack_logprobs(pack_logprobs(values)) == [round(value / UNIT) * UNIT for value in values]


@given(st.lists(st.floats(0, 15.5)))
def test_entropies_come_back_nearly(values: list[float]) -> None:
    back = unpack_entropies(pack_entropies(values))
    assert all(abs(b - v) <= math.sqrt(v) / 16 + 1 / 32**2 for b, v in zip(back, values, strict=True))


def test_entropies_that_are_out_of_range_do_not_lose_the_episode() -> None:
    unknown, least, most = unpack_entropies(pack_entropies([math.nan, -1e-7, 1e9]))
    assert math.isnan(unknown)
    assert (least, most) == (0.0, (254 / 16) ** 2)


def test_integers_of_every_earlier_form_are_read() -> None:
    values = [0, 1, 255, 70_000, -5]
    raw = struct.pack("<5i", *values)
    planes = b"\x01" + zlib.compress(b"".join(raw[place::4] for place in range(4)), 4)
    assert [list(unpack_ints(data)) for data in (zlib.compress(raw), planes)] == [values, values]


def test_logprobs_no_engine_should_give_do_not_lose_the_episode() -> None:
    back = unpack_logprobs(pack_logprobs([math.nan, -math.inf, -1e30, -0.0]))
    assert math.isnan(back[0])
    assert back[1:] == [-(2**31 - 1) * UNIT, -(2**31 - 1) * UNIT, 0.0]


_LOGPROBS = st.floats(-32_767, 0) | st.just(math.nan) | st.just(-math.inf)


@given(st.lists(_LOGPROBS), st.lists(_LOGPROBS))
def test_logprobs_beside_others_come_back_as_they_would_alone(values: list[float], others: list[float]) -> None:
    known = pack_logprobs(others)
    back, alone = unpack_beside(pack_beside(values, known), known), unpack_logprobs(pack_logprobs(values))
    assert list(map(repr, back)) == list(map(repr, alone))


def test_logprobs_that_are_nearly_others_take_next_to_nothing() -> None:
    others = [-((i * 104729) % 20000) * UNIT for i in range(3000)]
    values = [other + (i % 25 == 0) * UNIT for i, other in enumerate(others)]
    known = pack_logprobs(others)
    packed = pack_beside(values, known)
    assert len(packed) < 0.05 * len(known) and unpack_beside(packed, known) == values


def test_logprobs_from_before_they_were_differences_are_read() -> None:
    values = [-0.5, -1.25]
    assert unpack_beside(pack_logprobs(values), pack_logprobs([-0.5, -1.0])) == values
