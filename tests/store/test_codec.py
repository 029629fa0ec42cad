from __future__ import annotations

import dataclasses
import math
import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.store.codec import (
    decode,
    encode,
    pack_entropies,
    pack_ints,
    pack_logprobs,
    unpack_entropies,
    unpack_ints,
    unpack_logprobs,
)
from agentgrpo.types import Span, Trajectory
from tests.store.strategies import UNIT, make_trajectory, trajectories


def round_trip(trajectory: Trajectory) -> Trajectory:
    payload = encode(trajectory)
    return decode(payload.record, payload.token_ids, payload.logprobs)


@given(trajectories())
def test_a_trajectory_comes_back_equal(trajectory: Trajectory) -> None:
    assert round_trip(trajectory) == trajectory


def test_a_reward_that_is_not_a_number_comes_back() -> None:
    back = round_trip(make_trajectory(reward=math.nan))
    assert back.reward is not None
    assert math.isnan(back.reward)


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


def test_data_that_json_cannot_hold_becomes_its_text() -> None:
    back = round_trip(make_trajectory(info={"where": {1}, "complex": 1j}))
    assert back.info == {"where": "{1}", "complex": "1j"}


def test_secrets_stay_out_of_every_part() -> None:
    secret = "sk-" + "a1B2" * 8
    trajectory = make_trajectory(prompt=({"role": "user", "content": f"key {secret}"},), info={"config": [secret]})
    payload = encode(trajectory)
    assert secret not in payload.text
    back = decode(payload.record, payload.token_ids, payload.logprobs)
    assert back.info == {"config": ["[redacted]"]}
    assert back == dataclasses.replace(trajectory, prompt=back.prompt, info=back.info)


def test_tokens_take_about_two_bytes_each() -> None:
    ids = tuple((i * 7919) % 1600 for i in range(3000))
    values = tuple(-((i * 104729) % 20000) * UNIT for i in range(3000))
    span = Span(parent=-1, token_ids=ids, sampled=True, logprobs=values, policy_version=0)
    payload = encode(make_trajectory(spans=(span,)))
    assert len(payload.token_ids) < 2 * len(ids)
    assert len(payload.logprobs) < 2.5 * len(ids)


def test_the_searched_text_holds_messages_calls_and_causes() -> None:
    text = encode(make_trajectory()).text
    assert "Ada Lovelace" in text
    assert 'cancel_order {"order_id": "4821"}' in text
    assert "the engine is gone" in encode(make_trajectory(reward=None)).text
