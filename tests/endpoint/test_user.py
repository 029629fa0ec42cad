"""A user played by a model: what it is told, how it ends, and what an episode makes of an endpoint that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytest

from agentgrpo.core import ToolEnv
from agentgrpo.endpoint import client
from agentgrpo.endpoint.stub import Fault, StubEndpoint, says
from agentgrpo.endpoint.user import END, ModelUser
from agentgrpo.errors import ConfigError, EngineFailure, UserError
from agentgrpo.types import JsonObject, Message
from agentgrpo.users import User

OPENING: Message = {"role": "user", "content": "Move the review."}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


def heard(body: JsonObject) -> str:
    return str(body["messages"][-1]["content"])


async def replies(
    answer: Callable[[JsonObject], JsonObject], *said: str, faults: Iterable[Fault] = (), **options: Any
) -> tuple[list[str | None], list[JsonObject]]:
    """Let an agent say these things to a model's user, as an environment in a thread does; return replies, requests."""
    async with StubEndpoint(answer, faults=faults) as stub:
        user: User = ModelUser(stub.url, "m", brief="You want the review on Tue at 10.", **options)
        messages, found = [OPENING], list[str | None]()
        for content in said:
            messages.append({"role": "assistant", "content": content})
            found.append(await asyncio.to_thread(user.reply, messages))
            messages.append({"role": "user", "content": str(found[-1])})
        return found, stub.requests


async def test_the_model_hears_the_agent_as_its_user_and_knows_its_part() -> None:
    found, requests = await replies(lambda body: says("Tue."), "Which day?", "")
    assert found == ["Tue.", "Tue."]
    system, *rest = requests[-1]["messages"]
    assert system["role"] == "system"
    assert "You want the review on Tue at 10." in system["content"]
    assert [message["role"] for message in rest] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in rest[1:]] == ["Move the review.", "Which day?", "Tue.", "(says nothing)"]
    assert requests[0]["temperature"] == 0.0
    assert "tools" not in requests[0]


async def test_the_last_word_ends_the_conversation() -> None:
    assert (await replies(lambda body: says(f"Thanks. {END}"), "done"))[0] == [None]


async def test_patience_ends_without_asking_the_model() -> None:
    found, requests = await replies(lambda body: says("Tue."), *["Which day?"] * 4, patience=2)
    assert found[:3] == ["Tue.", "Tue.", None]
    assert len(requests) == 2


async def test_what_a_repetition_mends_is_mended() -> None:
    assert (await replies(lambda body: says("Tue."), "Which day?", faults=["500", "empty"]))[0] == ["Tue."]


async def test_an_endpoint_that_gives_no_answer_is_a_failure_of_the_episode() -> None:
    with pytest.raises(EngineFailure, match="no answer within"):
        await replies(lambda body: says("Tue."), "Which day?", faults=["stall"] * 9, seconds=0.2)
    with pytest.raises(EngineFailure, match="plays the user, said nothing"):
        await replies(lambda body: says(" "), "Which day?")


async def test_an_endpoint_that_refuses_is_the_users_to_mend() -> None:
    async with StubEndpoint(lambda body: says("Tue."), key="right") as stub:
        user = ModelUser(stub.url, "m", brief="")
        with pytest.raises(UserError, match="401"):
            await asyncio.to_thread(user.reply, [OPENING, {"role": "assistant", "content": "?"}])
    with pytest.raises(ConfigError, match="no URL"):
        ModelUser("localhost", "m", brief="")


class Diary(ToolEnv):
    """Moves the review to where a user, played by a model, wants it."""

    metadata: ClassVar[dict[str, Any]] = {"isolation": "thread"}  # type: ignore[misc]  # as in AgentEnv

    def reset_task(self, task: JsonObject) -> str:
        self.talk = [OPENING]
        self.user: User = ModelUser(task["url"], "m", brief=f"You want it on {task['day']}.")
        return str(OPENING["content"])

    def respond(self, content: str) -> str | None:
        self.talk.append({"role": "assistant", "content": content})
        reply = self.user.reply(self.talk)
        self.talk.append({"role": "user", "content": reply or ""})
        return reply

    def reward(self) -> float:
        return float(f"moved to {self.task['day']}" in str(self.answer))


async def test_an_environment_talks_to_it_in_its_own_thread() -> None:
    async with StubEndpoint(lambda body: says("Tue, please." if "?" in heard(body) else END)) as stub:
        env = Diary()
        env.reset(options={"task": {"url": stub.url, "day": "Tue"}})

        def play() -> tuple[list[Message], float, bool]:
            asked = env.step(json.dumps(env.say("Which day?")))
            told = env.step(json.dumps(env.say("moved to Tue")))
            return asked[4]["messages"], told[1], told[2]

        assert await asyncio.to_thread(play) == ([{"role": "user", "content": "Tue, please."}], 1.0, True)
