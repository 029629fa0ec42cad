from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.tools.sandbox.output import Output


@given(chunks=st.lists(st.binary(max_size=40), max_size=20), limit=st.integers(1, 60))
def test_beginning_and_end_are_kept_and_what_is_missing_is_counted(chunks: list[bytes], limit: int) -> None:
    output, everything = Output(limit), b"".join(chunks)
    for chunk in chunks:
        output.add(chunk)
    head, tail = output.parts
    assert everything.startswith(head)
    assert everything.endswith(tail)
    assert len(head) + len(tail) + output.left_out == len(everything) == output.total
    assert len(head) + len(tail) == min(limit, len(everything))


def test_a_gigabyte_takes_no_memory() -> None:
    output, chunk = Output(16_384), b"x" * 65_536
    tracemalloc.start()
    for _ in range(2**30 // len(chunk)):
        output.add(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert output.left_out == 2**30 - 16_384
