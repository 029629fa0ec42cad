from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo.engines import attention
from agentgrpo.engines.attention import Feed, Ints
from agentgrpo.engines.selfcheck import is_batch_invariant


@torch.inference_mode()
def test_this_machine_keeps_the_promise(model: PreTrainedModel) -> None:
    assert is_batch_invariant(model)


@torch.inference_mode()
@pytest.mark.parametrize("depends_on", ["rows", "slots"])
def test_a_machine_that_does_not_is_found_out(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, depends_on: str
) -> None:
    """A last bit that depends on how many tokens share a pass, or on where a sequence lies, is enough."""
    run_pass = attention.run_pass

    def disturbed(model: PreTrainedModel, tokens: Ints, feed: Feed) -> Tensor:
        hidden = run_pass(model, tokens, feed)
        is_hit = len(tokens) > 200 if depends_on == "rows" else int(feed.rows[0]) > 200
        return hidden * (1 + 2**-22) if is_hit else hidden

    monkeypatch.setattr(attention, "run_pass", disturbed)
    assert not is_batch_invariant(model)
