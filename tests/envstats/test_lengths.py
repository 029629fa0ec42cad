from __future__ import annotations

import agentgrpo as ag
from agentgrpo.baselines import play
from agentgrpo.chat import Chat
from agentgrpo.envstats.lengths import ended, measure
from agentgrpo.registry import resolve_env
from agentgrpo.warm_start.demonstrations import demonstrate, tokenize

SOURCE = resolve_env("lockbox")
TASK = ag.load_tasks(SOURCE.tasks())[0]


def test_tokens_are_those_of_the_warm_starts_row(tiny_chat: Chat) -> None:
    played = play(SOURCE, TASK, "oracle", seed=0)
    (length,) = measure([played], tiny_chat)
    row = tokenize(demonstrate(SOURCE, TASK, quality=1.0, seed=0), tiny_chat)
    assert (length.sampled, length.total) == (sum(row.loss_mask), len(row.token_ids))
    assert length.prompt == row.loss_mask.index(1)
    assert length.prompt + length.sampled < length.total


def test_an_episode_that_says_nothing_still_ends_its_turn(tiny_chat: Chat) -> None:
    (length,) = measure([play(SOURCE, TASK, "nothing", seed=0)], tiny_chat)
    assert 0 < length.sampled < 10


def test_without_a_tokenizer_characters_count() -> None:
    (short,) = measure([play(SOURCE, TASK, "nothing", seed=0)], None)
    (long,) = measure([play(SOURCE, TASK, "oracle", seed=0)], None)
    assert short.prompt == long.prompt > 40
    assert short.total < long.total
    assert long.prompt + long.sampled < long.total


def test_an_episode_becomes_a_figure() -> None:
    figure = ended(TASK, play(SOURCE, TASK, "oracle", seed=0))
    assert (figure.group, figure.reward, figure.is_success, figure.turns, figure.calls, figure.errors) == (
        *(TASK.id, 1.0, True),
        *(5, 4, 0),
    )
