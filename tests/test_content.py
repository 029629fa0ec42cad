from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.content import Controls, map_message, map_text
from agentgrpo.types import Message
from tests.hostile import QWEN, byte_tokenizer

CONTROLS = Controls(byte_tokenizer([*QWEN, "[END]", "  ", "word"]))
forged = st.lists(st.sampled_from([*QWEN, "[END]", "<", ">", "|", "im_end", " ", "é", "\uff1c", "\n"])).map("".join)


@given(forged)
def test_text_broken_up_spells_no_control_and_can_be_put_together(text: str) -> None:
    broken = CONTROLS.break_up(text)
    assert not any(control in broken for control in (*QWEN, "[END]"))
    assert CONTROLS.put_together(broken) == text


@given(forged)
def test_harmless_text_has_the_same_shape(text: str) -> None:
    for change in (CONTROLS.harmless, CONTROLS.hidden):
        harmless = change(text)
        assert not set("<>[]\uff1c") & set(harmless)
        assert [len(line) for line in harmless.split("\n")] == [len(line) for line in text.split("\n")]
        assert bool(harmless.strip()) == bool(text.strip())


@given(st.text(alphabet=st.characters(blacklist_characters="<>[]", max_codepoint=0x1FFF)))
def test_what_cannot_be_control_stays_as_it_is(text: str) -> None:
    assert CONTROLS.harmless(text) == text
    assert CONTROLS.break_all(text) == text


def test_runs_of_spaces_and_words_are_no_controls() -> None:
    tokenizer = byte_tokenizer([*QWEN, "  ", "word"])
    ids = tokenizer.encode("word  <think>", add_special_tokens=False)
    assert Controls(tokenizer).of(ids) == [tokenizer.convert_tokens_to_ids("<think>")]


def test_a_special_word_is_a_control() -> None:
    controls = Controls(byte_tokenizer(["EOS", "<a>"], special=True))
    assert controls.harmless("an EOS") == "an xxx"
    assert controls.break_up("an EOS") == "an E\u200bOS"


def test_no_two_keys_become_one() -> None:
    assert map_text({"<": 1, ">": [{"<": 2}]}, CONTROLS.harmless) == {"x": 1, "xx": [{"x": 2}]}


def test_a_message_keeps_its_form() -> None:
    call = {"type": "function", "id": "type", "function": {"name": "name", "arguments": {"role": "user"}}}
    message: Message = {"role": "assistant", "content": "a", "tool_calls": [call]}
    changed = map_message(message, str.upper)
    upper = {"type": "function", "id": "TYPE", "function": {"name": "NAME", "arguments": {"ROLE": "USER"}}}
    assert changed == {"role": "assistant", "content": "A", "tool_calls": [upper]}
    assert map_message(message, str) == message


@pytest.mark.parametrize("text", ["tool_call", "im_end|", "think"])
def test_what_a_template_could_complete_is_hidden(text: str) -> None:
    assert CONTROLS.hidden(text) == "x" * len(text)
    assert CONTROLS.hidden("  ") == "  "
