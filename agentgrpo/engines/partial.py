"""A generation as far as it has come, on whatever servers: what has to be asked for the rest, and whether it can be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agentgrpo.engines.vllm_api import BadAnswer, Chunk
from agentgrpo.seeds import derive_seed
from agentgrpo.types import FinishReason, Generation, Sampling


@dataclass(slots=True)
class Partial:
    """The tokens of one completion that have come."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def rest(self) -> tuple[tuple[int, ...], Sampling]:
        """Return what has to be asked for the rest.

        Another seed than the first's: the same noise at another place would not be a sample of the policy.
        """
        done = len(self.token_ids)
        seed = derive_seed(self.sampling.seed, done) if done else self.sampling.seed
        left = replace(self.sampling, max_tokens=self.sampling.max_tokens - done, seed=seed)
        return (*self.prompt_ids, *self.token_ids), left

    def take(self, chunk: Chunk) -> None:
        """Add what came.

        Raises:
            BadAnswer: it cannot be: too much, something after the end, or an end where there is none.
        """
        for token, logprob in zip(chunk.token_ids, chunk.logprobs, strict=True):
            if self.finish_reason is not None:
                raise BadAnswer(f"it went on after {len(self.token_ids)} tokens, where the generation ends")
            self.token_ids.append(token)
            self.logprobs.append(logprob)
            if token in self.sampling.stop_token_ids:
                self.finish_reason = "stop"
            elif len(self.token_ids) == self.sampling.max_tokens:
                self.finish_reason = "length"
        if chunk.finish_reason is not None:
            self.check_end(f"'{chunk.finish_reason}'")

    def check_end(self, said: str = "nothing") -> None:
        """Refuse an answer that ended before the generation did."""
        if self.finish_reason is None:
            done = f"{len(self.token_ids)} of {self.sampling.max_tokens} tokens"
            raise BadAnswer(f"it ended with {said} after {done} and no stop token")

    def drop(self, start: int) -> None:
        """Forget what came from `start` on."""
        del self.token_ids[start:], self.logprobs[start:]
        self.finish_reason = None

    def generation(self) -> Generation:
        """Return it as a whole."""
        return Generation(
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            finish_reason=self.finish_reason or "length",
        )
