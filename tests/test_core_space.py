"""The space of texts that environments take and give."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.core import UnicodeText


@given(st.text(max_size=50))
def test_any_text_is_in_the_space(text: str) -> None:
    assert text in UnicodeText()
    assert (text in UnicodeText(10, min_length=1)) == (1 <= len(text) <= 10)


def test_samples_are_short_printable_and_seeded() -> None:
    space, again = UnicodeText(seed=1), UnicodeText(seed=1)
    samples = [space.sample() for _ in range(50)]
    assert samples == [again.sample() for _ in range(50)]
    assert all(sample in space and sample.isprintable() and len(sample) <= 64 for sample in samples)
    assert len(UnicodeText(200, min_length=100).sample()) == 100
    assert 5 not in space
