from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgrpo.store import EpisodeReader, EpisodeStore, Filter, FilterError, parse_filter
from agentgrpo.store.filter import FIELDS, TEXT, Between, Term, Test
from agentgrpo.store.rows import EpisodeRow
from agentgrpo.types import Policy, StopReason
from tests.store.strategies import make_key, make_trajectory

# What a filter means, said a second time without SQL.
NUMBERS: dict[str, Callable[[EpisodeRow], float | None]] = {
    "step": lambda row: row.step,
    "sample": lambda row: row.sample,
    "attempt": lambda row: row.attempt,
    "policy": lambda row: row.policy_version,
    "stale": lambda row: row.step - 1 - row.policy_version if row.phase == "train" else None,
    "reward": lambda row: row.reward,
    "advantage": lambda row: row.advantage,
    "turns": lambda row: row.turns,
    "calls": lambda row: row.tool_calls,
    "errors": lambda row: row.tool_errors,
    "tokens": lambda row: row.tokens,
    "sampled": lambda row: row.sampled_tokens,
    "forks": lambda row: row.forks,
    "seconds": lambda row: row.seconds,
    "id": lambda row: row.id,
    "parent": lambda row: row.parent,
}
WORDS: dict[str, Callable[[EpisodeRow], str | None]] = {
    "phase": lambda row: row.phase,
    "stop": lambda row: row.stop_reason,
    "failed": lambda row: "yes" if row.stop_reason == "failed" or row.boundary in ("reward", "judge") else "no",
    "boundary": lambda row: row.boundary,
    "filtered": lambda row: row.filter_reason,
    "success": lambda row: {True: "yes", False: "no", None: None}[row.success],
    "task": lambda row: row.task_id,
}
REWARDS = [None, 0.0, 0.25, 0.5, 1.0]


def holds(term: Term, row: EpisodeRow) -> bool:
    return any(_holds(term.field, value, row) for value in term.values) != term.negated


def _holds(name: str, value: Test, row: EpisodeRow) -> bool:
    if isinstance(value, Between):
        number = NUMBERS[name](row)
        return number is not None and number in value
    if name in ("reward", "advantage", "parent"):
        return NUMBERS[name](row) is None
    if name == "task":
        pattern = re.compile(fnmatch.translate(str(value).replace("[", "[[]").replace("?", "[?]")))
        return pattern.fullmatch(row.task_id) is not None
    if name == "policy":
        return str(value).lower() in row.policy.lower()
    if name == "cause":
        return row.cause is None if value is None else row.cause is not None and str(value).lower() in row.cause.lower()
    if name == "env":
        return str(value).lower() in row.env_id.lower()
    return WORDS[name](row) == value


finite = st.floats(-5, 200, allow_nan=False).map(lambda x: round(x, 2)) | st.integers(-2, 70).map(float)
bounds = st.builds(
    lambda low, more, open_low, open_high, kind: Between(
        low=None if kind == "high" else low,
        high=None if kind == "low" else low if kind == "equal" else low + more,
        open_low=open_low and kind == "low",
        open_high=open_high and kind == "high",
    ),
    finite,
    st.floats(0.5, 20).map(lambda x: round(x, 2)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["low", "high", "equal", "both"]),
)


@st.composite
def terms(draw: st.DrawFn, fields: tuple[str, ...] = (*FIELDS, TEXT)) -> Term:
    """Draw any term the language can say."""
    name = draw(st.sampled_from(fields))
    if name == TEXT:
        return Term(field=TEXT, values=(draw(st.text(min_size=1, max_size=9)),), negated=draw(st.booleans()))
    known = FIELDS[name]
    values: st.SearchStrategy[Test]
    if known.is_number:
        values = bounds
    elif known.words is not None:
        values = st.sampled_from(known.words)
    else:
        values = st.sampled_from(["shop-1", "shop-*", "policy", "other", "none", "engine is gone"]) | st.text(
            max_size=6
        )
    if known.has_unknown:
        values |= st.none()
    if name == "policy":
        values |= bounds
    found = draw(st.lists(values, min_size=1, max_size=3))
    is_list = len(found) > 1  # a list has no way to leave a bound out
    found = [Between(low=v.low, high=v.high) if is_list and isinstance(v, Between) else v for v in found]
    return Term(field=name, values=tuple(found), negated=draw(st.booleans()))


@given(st.lists(terms(), max_size=4))
def test_a_filter_that_is_written_down_is_read_back(found: list[Term]) -> None:
    where = Filter(terms=tuple(found))
    assert parse_filter(str(where)) == where


@given(st.text() | st.text('ab:<>=!-", .0123456789stepolicyrewardnone\\', max_size=30))
def test_any_text_is_a_filter_or_says_what_is_wrong_and_where(text: str) -> None:
    try:
        where = parse_filter(text)
    except FilterError as error:
        assert 0 <= error.start <= error.end <= len(text)
        assert str(error)
    else:
        assert parse_filter(str(where)) == where


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (
            'env:shop reward<0.2 stop:max_turns tool:refund "text"',
            "env:shop reward<0.2 stop:max_turns tool:refund text",
        ),
        ("  step:40..50   -success:yes ", "step:40..50 -success:yes"),
        ("!stop=DONE,answered", "-stop:done,answered"),
        ("stop!=done", "-stop:done"),
        ("-stop!=done", "stop:done"),
        ("step:5 step=5 policy:7 policy:attacker policy>=3", "step:5 step:5 policy:7 policy:attacker policy>=3"),
        ("reward:none success:true is:no", "reward:none success:yes success:no"),
        ("step:..9 step:3..", "step<=9 step>=3"),
        ('"late \\"again\\"" a,b 12:30 - -x', '"late \\"again\\"" "a,b" 12:30 "-" -x'),
        ('task:"none" task:heldout-*', 'task:"none" task:heldout-*'),
        ("version:12 staleness>1 REWARD>1e-3", "policy:12 stale>1 reward>0.001"),
    ],
)
def test_what_terms_mean(text: str, canonical: str) -> None:
    assert str(parse_filter(text)) == canonical


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("stp:done", r"nothing called 'stp' to filter by\. Did you mean 'stop'\?", "stp"),
        ("env:shop reward<abc", r"'abc' is no number: expected something like reward<0\.2", "abc"),
        ("reward<", r"'reward<' has no value: expected something like reward<0\.2", "reward<"),
        ("stop:max_turn", r"expected one of done, .*Did you mean 'max_turns'", "max_turn"),
        ("success:maybe", "expected one of yes, no", "maybe"),
        ('a "refund or', "this quote is not closed", '"refund or'),
        ("stop>done", "'stop' is no number, so > says nothing: write stop:done", "done"),
        ("step:..", "has no bound: expected step:1..5", ".."),
        ("reward<nan", "'nan' is no number", "nan"),
        ("step:1_0", "'1_0' is no number", "1_0"),
        ("http://x", r'put words to look for into quotes: "http:"', "http"),
        ("a " * 41, "more than 40 terms", "a "),
        ("x" * 2001, "2,001 characters, at most 2,000", "x" * 2001),
    ],
)
def test_mistakes_say_what_was_got_and_expected_and_where(text: str, message: str, where: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        parse_filter(text)
    assert text[caught.value.start : caught.value.end] == where


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_an_example_that_can_be_read(name: str) -> None:
    (term,) = parse_filter(FIELDS[name].example).terms
    assert term.field == name


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty groups of five with a little of everything."""
    path = tmp_path_factory.mktemp("filter") / "episodes.sqlite"
    stops = [StopReason.ANSWERED, StopReason.MAX_TURNS, StopReason.DONE]
    with EpisodeStore(path) as store:
        for number in range(40):
            group = []
            for sample, reward in enumerate(REWARDS):
                key = make_key(number // 4, f"shop-{number % 7}", sample, phase="eval" if number % 5 == 4 else "train")
                stop = StopReason.FAILED if reward is None else stops[(number + sample) % 3]
                more = {
                    "stop_reason": stop,
                    "policy": Policy(name="policy" if number % 9 else "other", version=number // 6),
                }
                more |= {"env_id": "agentgrpo/Shop-v0" if number % 3 else "other", "seconds": number / 2}
                group.append(make_trajectory(key, reward=reward, **more))
            store.add_sync(group)
    return path


@pytest.fixture(scope="module")
def reader(path: Path) -> Iterator[EpisodeReader]:
    with EpisodeReader(path) as reader:
        yield reader


@pytest.fixture(scope="module")
def everything(reader: EpisodeReader) -> list[EpisodeRow]:
    return reader.list(limit=1000)


SEEN_IN_THE_INDEX = tuple(name for name in FIELDS if name not in ("tool", "error"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.lists(terms(SEEN_IN_THE_INDEX), max_size=3),
    order=st.sampled_from(["id", "reward", "step", "turns"]),
    descending=st.booleans(),
)
def test_the_database_finds_what_the_filter_means(
    reader: EpisodeReader, everything: list[EpisodeRow], found: list[Term], order: str, descending: bool
) -> None:
    where = Filter(terms=tuple(found))
    expected = {row.id for row in everything if all(holds(term, row) for term in found)}
    rows = reader.list(where, order=order, descending=descending, limit=1000)
    assert [row.id for row in rows if row.id not in expected] == []
    assert len(rows) == len(expected) == reader.count(where)
    if len(rows) > 3:
        after = reader.list(where, order=order, descending=descending, limit=1000, after=rows[1].id)
        assert [row.id for row in after] == [row.id for row in rows[2:]]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("tool:cancel_order", 200),
        ("tool:cancel", 200),
        ("tool:find*", 200),
        ("tool:order -tool:cancel_order", 0),
        ("error:cancel_order", 200),
        ("error:find_orders", 0),
        ("tool:nothing", 0),
        ("-tool:nothing", 200),
        ("tool:nothing,find success:yes", 40),
        ('"ada love" stop:failed', 40),
        ('-"engine is gone"', 160),
        ('"engine is gone" reward:none', 40),
        ('text:"nobody","engine is"', 40),
        ('""', 200),
    ],
)
@pytest.mark.parametrize("order", ["id", "reward"])
def test_tools_and_texts(reader: EpisodeReader, text: str, count: int, order: str) -> None:
    where = parse_filter(text)
    assert len(reader.list(where, order=order, limit=1000)) == reader.count(where) == count


def test_counting_may_stop_early(reader: EpisodeReader) -> None:
    assert reader.count(parse_filter("tool:cancel"), most=50) == 51
    assert reader.count(parse_filter("step:0"), most=50) == 20
