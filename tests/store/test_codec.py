from __future__ import annotations

import dataclasses
import math

from hypothesis import given

from agentgrpo.store.codec import (
    decode,
    encode,
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
