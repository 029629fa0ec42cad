"""[judge]: a chat model that judges episodes, one by one or against the others of their group."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from agentgrpo.config.section import Section


class JudgeConfig(Section):
    """Which model judges, by what, and what it may cost."""

    endpoint: str = Field(min_length=1)  # OpenAI-compatible, such as https://host/v1
    model: str = Field(min_length=1)
    api_key_env: str | None = None  # the environment variable that holds the key, never the key itself
    mode: Literal["episode", "group"] = "group"
    rubric: str | None = Field(None, min_length=1)  # what counts, in words
    rubric_file: str | None = Field(None, min_length=1)  # the same, in a file
    weight: float = Field(0.5, gt=0, le=1e6)  # of its term "judge", from 0 to 1; an environment's outcome weighs 1
    temperature: float = Field(0.0, ge=0)
    answer_tokens: int = Field(1024, gt=0)
    retries: int = Field(2, ge=0)  # how often it is asked again after an answer that cannot be read
    seconds: float = Field(120.0, gt=0)  # deadline of a verdict, all repetitions included
    concurrency: int = Field(8, gt=0)  # verdicts asked for at once
    budget_calls: int | None = Field(None, gt=0)  # of the whole run: then what is not judged has no score
    budget_tokens: int | None = Field(None, gt=0)  # read and written, as the endpoint counts them

    @model_validator(mode="after")
    def _has_one_rubric(self) -> Self:
        if (self.rubric is None) == (self.rubric_file is None):
            raise ValueError("a judge needs a rubric: give either rubric (what counts, in words) or rubric_file")
        return self
