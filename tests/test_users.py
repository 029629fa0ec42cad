from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.types import Message
from agentgrpo.users import AGREES, REFUSES, UNKNOWN, Fact, ScriptedUser, User

DAY = Fact(words=("day", "when"), said=("On Tue.",))
HOUR = Fact(words=("hour", "time", "when"), said=("At 10.",))


def talk(user: User, *said: str) -> list[str | None]:
    """Let an agent say these things, one after the other; return what the user replied, None once it had ended."""
    messages: list[Message] = [{"role": "user", "content": "Move the review."}]
    replies: list[str | None] = []
    for content in said:
        messages.append({"role": "assistant", "content": content})
        replies.append(user.reply(messages))
        if replies[-1] is None:
            break
        messages.append({"role": "user", "content": replies[-1]})
    return replies


def test_a_fact_is_told_only_when_asked_for() -> None:
    user = ScriptedUser(seed=0, facts=(DAY, HOUR))
    assert talk(user, "Which DAY?", "At what time?", "ok") == ["On Tue.", "At 10.", None]
    assert talk(user, "When should it be?") == ["On Tue. At 10."]
    assert talk(user, "Which room?") == [UNKNOWN]
    assert talk(user, "Tell me the day.") == [None]  # no question: a report


def test_words_are_whole_words() -> None:
    assert talk(ScriptedUser(seed=0, facts=(DAY,)), "Is it a holiday?") == [UNKNOWN]


def test_a_change_of_mind_comes_once_at_the_first_report() -> None:
    user = ScriptedUser(seed=0, facts=(HOUR,), change=("Sorry, at 14.",))
    assert talk(user, "done", "done") == ["Sorry, at 14.", None]
    assert talk(user, "Which hour?", "done", "done") == ["At 10.", "Sorry, at 14.", None]


def test_who_asks_after_the_change_is_told_of_it_again() -> None:
    user = ScriptedUser(seed=0, facts=(HOUR,), change=("Sorry, at 14.",))
    assert talk(user, "done", "Which hour?", "done") == ["Sorry, at 14.", "At 10. Sorry, at 14.", None]


def test_a_proposal_is_agreed_to_when_it_holds_every_accepted_word() -> None:
    user = ScriptedUser(seed=0, facts=(DAY,), accepted=frozenset({"14", "Oslo"}))
    assert talk(user, "At 12 in Oslo?", "14 in oslo?") == [REFUSES, AGREES]
    assert talk(user, "On which day, at 14 in Oslo?") == ["On Tue."]  # a fact that is asked for comes first


def test_patience_ends() -> None:
    user = ScriptedUser(seed=0, facts=(DAY,), patience=3)
    assert talk(user, *["Which day?"] * 9) == ["On Tue."] * 3 + [None]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**40), st.lists(st.text(max_size=20), max_size=6))
def test_replies_depend_on_the_seed_and_what_was_said_alone(seed: int, said: list[str]) -> None:
    facts = (Fact(words=("day",), said=("On Tue.", "Tue, please.")), Fact(words=("x", "?"), said=("y",)))

    def user() -> ScriptedUser:
        return ScriptedUser(seed=seed, facts=facts, accepted=frozenset({"a"}), change=("Sorry.", "No, b."))

    assert talk(user(), *said) == talk(user(), *said)


def test_the_seed_chooses_the_wording() -> None:
    fact = Fact(words=("day",), said=("On Tue.", "Tue, please."))
    replies = {talk(ScriptedUser(seed=seed, facts=(fact,)), "day?")[0] for seed in range(20)}
    assert replies == {"On Tue.", "Tue, please."}
