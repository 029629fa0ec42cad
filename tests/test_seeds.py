from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.seeds import derive_seed


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0, "tasks") == 4286011965845421362
    assert derive_seed() == derive_seed("")


@given(st.lists(st.text(max_size=3).filter(lambda t: "\x1f" not in t), min_size=1, max_size=3))
def test_seeds_fit_63_bits_and_depend_on_every_part_and_its_place(parts: list[str]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed != derive_seed(*parts, "more")
    assert seed != derive_seed("more", *parts)
