"""The judge against a stub endpoint: what it asks, what it keeps, what it gives up, and that it never guesses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.activity import Activity
from agentgrpo.config.judge import JudgeConfig
from agentgrpo.endpoint import client
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import Answer, Fault, StubEndpoint, says
from agentgrpo.errors import JudgeFailure, UserError
from agentgrpo.judge.judge import Judge
from agentgrpo.judge.stub import judging, shown_to
from agentgrpo.store.verdicts import VerdictStore
from agentgrpo.types import JsonObject, Message
from tests.clock import leap
from tests.endpoint.stalls import stalling
from tests.judge.recordings import answering, recording, said


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


def length(messages: list[Message]) -> float:
    """A judge that likes short answers: 1 for one character, less for more."""
    return 1 / max(1, len(messages[-1]["content"]))


@asynccontextmanager
async def judged_by(
    answer: Answer,
    folder: Path,
    *,
    faults: Iterable[Fault] = (),
    seed: int = 0,
    attempt_seconds: float = 60.0,
    **more: Any,
) -> AsyncIterator[tuple[Judge, StubEndpoint]]:
    server = {name: more.pop(name) for name in ("counts_tokens", "stub_seconds") if name in more}
    seconds = server.pop("stub_seconds", 0.0)
    async with StubEndpoint(answer, faults=faults, seconds=seconds, **server) as stub:
        config = JudgeConfig(endpoint=stub.url, model="m", rubric="Be short.", **more)
        endpoint = Endpoint(stub.url, "m", concurrency=config.concurrency, retries=2, attempt_seconds=attempt_seconds)
        with VerdictStore(folder / "verdicts.sqlite") as verdicts:
            async with Judge(config, "Be short.", endpoint, verdicts, seed=seed, activity=Activity()) as judge:
                yield judge, stub


async def test_a_score_comes_with_its_reason(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        verdict = await judge.score(recording(said("four")))
        assert (verdict.score, verdict.reason) == (0.25, "so it seems")
        (request,) = stub.requests
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0.0, 1024)
    assert "tools" not in request


async def test_a_group_is_ranked_with_ties_and_equal_episodes_are_shown_once(tmp_path: Path) -> None:
    group = answering("7", "also long", "8", "7")
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        verdicts = await judge.rank(group)
        rows = shown_to(stub.requests[0])
    assert [round(verdict.score, 3) for verdict in verdicts] == [0.667, 0.0, 0.667, 0.667]
    assert len(rows) == 1 + 3


async def test_episodes_that_are_all_the_same_need_no_judge(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        verdicts = await judge.rank(answering("7", "7", "7"))
        assert ([verdict.score for verdict in verdicts], stub.requests) == ([0.5] * 3, [])


async def test_one_episode_alone_cannot_be_ranked(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        with pytest.raises(JudgeFailure, match="one episode cannot be ranked"):
            await judge.rank(answering("7"))
        assert (stub.requests, judge.activity.troubles["judge_alone"]) == ([], 1)


async def test_a_judge_that_always_takes_the_first_gains_no_place(tmp_path: Path) -> None:
    """The order attempts are shown in follows from the seed, not from their samples."""
    first = says('{"reason": "", "ranking": [[1], [2], [3], [4]]}')
    winners = set()
    for seed in range(12):
        (tmp_path / str(seed)).mkdir()
        async with judged_by(lambda body: dict(first), tmp_path / str(seed), seed=seed) as (judge, stub):
            verdicts = await judge.rank(answering("a", "b", "c", "d"))
            again = await judge.rank(answering("a", "b", "c", "d"))
            assert (again, len(stub.requests)) == (verdicts, 1)
        winners.add(max(range(4), key=lambda sample: verdicts[sample].score))
    assert winners == {0, 1, 2, 3}


async def test_nothing_is_asked_twice_also_not_by_another_process(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        same = [recording(said("four"), sample=sample) for sample in range(5)]
        scores = await asyncio.gather(*(judge.score(one) for one in same))
        assert ({verdict.score for verdict in scores}, len(stub.requests)) == ({0.25}, 1)
        assert judge.metrics() == {
            "judge/calls": 1.0,
            "judge/tokens": 15.0,
            "judge/asked": 1.0,
            "judge/kept": 4.0,
            "judge/failed": 0.0,
        }
    async with judged_by(judging(lambda messages: 1.0), tmp_path) as (judge, stub):
        assert (await judge.score(same[0])).score == 0.25
        assert (stub.requests, judge.metrics()["judge/calls"]) == ([], 1.0)


async def test_an_answer_that_cannot_be_read_is_asked_for_again_with_the_problem(tmp_path: Path) -> None:
    answers = iter(["I like it", '{"score": 7}', '{"reason": "", "score": 0.5}'])
    async with judged_by(lambda body: says(next(answers)), tmp_path) as (judge, stub):
        assert (await judge.score(recording(said("x")))).score == 0.5
        last = stub.requests[-1]["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert last[2]["content"] == '{"score": 7}'
    assert "score is 7, expected a number from 0 to 1" in last[3]["content"]


async def test_it_is_asked_so_often_and_then_there_is_no_verdict(tmp_path: Path) -> None:
    async with judged_by(lambda body: says("well"), tmp_path, retries=1) as (judge, stub):
        with pytest.raises(JudgeFailure, match="2 answers could not be read; the last: not valid JSON") as caught:
            await judge.score(recording(said("x")))
        assert (len(stub.requests), caught.value.kind) == (2, "malformed")
        assert judge.activity.troubles == {"judge_malformed": 1}
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        assert (await judge.score(recording(said("x")))).score == 1.0  # what failed was not kept


@pytest.mark.parametrize(
    ("fault", "kind"), [("500", "no_answer"), ("stall", "no_answer"), ("half", "no_answer"), ("long", "too_long")]
)
async def test_an_endpoint_that_is_down_gives_no_verdict(tmp_path: Path, fault: Fault, kind: str) -> None:
    faults = stalling([fault] * 9, 61)
    async with judged_by(judging(length), tmp_path, faults=faults, seconds=500) as (judge, _):
        with pytest.raises(JudgeFailure) as caught:
            await judge.score(recording(said("x")))
        assert (caught.value.kind, judge.activity.troubles) == (kind, {f"judge_{kind}": 1})


async def test_what_passes_is_repeated_by_the_endpoint(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path, faults=["500", "429"]) as (judge, stub):
        assert (await judge.score(recording(said("x")))).score == 1.0
        assert len(stub.requests) == 3


async def test_the_deadline_holds_for_the_whole_verdict(tmp_path: Path) -> None:
    faults = stalling(["stall"], 20)
    async with judged_by(judging(length), tmp_path, faults=faults, seconds=20) as (judge, _):
        with pytest.raises(JudgeFailure, match=r"no verdict within 20 s"):
            await judge.score(recording(said("x")))


async def test_waiting_for_others_is_not_part_of_the_deadline(tmp_path: Path) -> None:
    def late(messages: list[Message]) -> float:
        leap(10)
        return length(messages)

    async with judged_by(judging(late), tmp_path, seconds=30, concurrency=1) as (judge, stub):
        found = await asyncio.gather(*(judge.score(recording(said("x" * n))) for n in range(1, 11)))
        assert (len(found), stub.most_open) == (10, 1)


async def test_so_many_are_asked_at_once(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path, stub_seconds=0.02, concurrency=3) as (judge, stub):
        await asyncio.gather(*(judge.score(recording(said("x" * n))) for n in range(1, 13)))
        assert stub.most_open == 3


@pytest.mark.parametrize(("budget", "asked"), [({"budget_calls": 3}, 3), ({"budget_tokens": 40}, 3)])
async def test_a_budget_that_is_used_up_ends_judging_and_is_said_once(
    tmp_path: Path, budget: JsonObject, asked: int
) -> None:
    told: list[str] = []
    async with judged_by(judging(length), tmp_path, concurrency=1, **budget) as (judge, stub):
        judge.activity = Activity(told.append)
        jobs = [judge.score(recording(said("x" * n))) for n in range(1, 8)]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        assert len(stub.requests) == asked
    assert [isinstance(one, JudgeFailure) for one in found] == [False] * asked + [True] * (7 - asked)
    assert (len(told), judge.activity.troubles["judge_budget"]) == (1, 7 - asked)
    assert "is used up: what is not judged from here on has no score" in told[0]
    async with judged_by(judging(length), tmp_path, **budget) as (judge, stub):
        assert (await judge.score(recording(said("x")))).score == 1.0  # was said before: costs nothing
        with pytest.raises(JudgeFailure, match="is used up"):  # also in the next process
            await judge.score(recording(said("x" * 99)))
        assert stub.requests == []


async def test_a_budget_of_tokens_needs_an_endpoint_that_counts_them(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path, counts_tokens=False, budget_tokens=99) as (judge, _):
        with pytest.raises(UserError, match=r"Set judge\.budget_calls in its place"):
            await judge.score(recording(said("x")))
    (tmp_path / "free").mkdir()
    async with judged_by(judging(length), tmp_path / "free", counts_tokens=False) as (judge, _):
        assert (await judge.score(recording(said("x")))).score == 1.0


async def test_a_refused_key_is_the_users_to_mend_and_names_the_config(tmp_path: Path) -> None:
    async with StubEndpoint(judging(length), key="right") as stub:
        config = JudgeConfig(endpoint=stub.url, model="m", rubric="r")
        names = client.SettingNames(url="judge.endpoint", model="judge.model", key="judge.api_key_env")
        with VerdictStore(tmp_path / "v.sqlite") as verdicts:
            async with Judge(config, "r", Endpoint(stub.url, "m", names=names), verdicts, seed=0) as judge:
                with pytest.raises(UserError, match=r"answered 401: .*Check judge.endpoint \(http.*judge.api_key_env"):
                    await judge.score(recording(said("x")))


async def test_a_kept_answer_that_is_damaged_is_asked_for_again(tmp_path: Path) -> None:
    async with judged_by(judging(length), tmp_path) as (judge, stub):
        await judge.score(recording(said("x")))
        with VerdictStore(tmp_path / "verdicts.sqlite") as other:
            other._db.execute("UPDATE verdicts SET answer = '{'")
        assert (await judge.score(recording(said("x")))).score == 1.0
        assert len(stub.requests) == 2


async def test_a_secret_in_a_reason_is_not_kept(tmp_path: Path) -> None:
    leak = json.dumps({"reason": "the key is sk-" + "a1" * 20, "score": 1})
    async with judged_by(lambda body: says(leak), tmp_path) as (judge, _):
        await judge.score(recording(said("x")))
        assert (await judge.score(recording(said("x")))).reason == "the key is [redacted]"
    assert b"a1a1a1" not in (tmp_path / "verdicts.sqlite").read_bytes()
