from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.store.redact import may_hold_keys, redact, redact_text

SECRETS = [
    "sk-" + "abcDEF123456" * 3,
    "sk-ant-api03-" + "x" * 40,
    "ghp_" + "A1b2" * 9,
    "github_pat_" + "A1b2_" * 9,
    "glpat-" + "a1B2" * 5,
    "hf_" + "Ab" * 17,
    "AKIA" + "ABCD1234" * 2,
    "AIza" + "x" * 35,
    "xoxb-1234567890-abc",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key={} end", '"{}"', "\n{}\n", "a {}, b"])
def test_known_keys_are_taken_out_and_nothing_else(secret: str, around: str) -> None:
    assert redact_text(around.format(secret)) == around.format("[redacted]")


@pytest.mark.parametrize("secret", [*SECRETS, "Bearer " + "a1" * 9, "bearer\t" + "a1" * 9, "ASIA" + "ABCD1234" * 2])
def test_the_quick_look_misses_no_key(secret: str) -> None:
    assert may_hold_keys(f"a{secret[0]} {secret}")
    assert not may_hold_keys("a task-12 of A, AK, gh, xo; hugs, sk-short")


def test_a_bearer_token_keeps_its_scheme() -> None:
    assert redact_text("Authorization: Bearer abcdefgh12345678==") == "Authorization: Bearer [redacted]"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-",
        "ask-forgiveness-not-permission-ever",
        "task-00000000000000000000000",
        "bearer of bad news",
        "hf_hub",
        "AKIA",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text


@given(st.text() | st.sampled_from(SECRETS).flatmap(lambda s: st.text().map(lambda t: t + s + t)))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


def test_nested_data_is_redacted_and_its_shape_kept() -> None:
    secret = SECRETS[0]
    assert redact({"a": [1, None, {secret: (secret, 2.5)}]}) == {"a": [1, None, {"[redacted]": ["[redacted]", 2.5]}]}
