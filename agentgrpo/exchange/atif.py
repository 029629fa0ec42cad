"""The Agent Trajectory Interchange Format, versions 1.0 to 1.8, as models that say yes or no to a document.

The rules are those of the format's own documentation and validator; a key it does not know is refused, as there.
What agentgrpo writes into the `extra` members is in `atif_extra`. Which episode becomes which document is not known
here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agentgrpo.types import JsonObject

VERSION: Literal["ATIF-v1.8"] = "ATIF-v1.8"

Version: TypeAlias = Literal[
    "ATIF-v1.0",
    "ATIF-v1.1",
    "ATIF-v1.2",
    "ATIF-v1.3",
    "ATIF-v1.4",
    "ATIF-v1.5",
    "ATIF-v1.6",
    "ATIF-v1.7",
    "ATIF-v1.8",
]
Extra: TypeAlias = dict[str, Any] | None
Count: TypeAlias = Annotated[int, Field(ge=0)]
TokenIds: TypeAlias = list[Annotated[int, Field(ge=0, lt=2**31)]]
ImageType: TypeAlias = Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
AudioType: TypeAlias = Literal[
    "audio/wav",
    "audio/mpeg",
    "audio/mp4",
    "audio/aac",
    "audio/ogg",
    "audio/flac",
    "audio/webm",
    "audio/aiff",
]
_AUDIO_NAMES = {  # other spellings a reader takes, and what they mean
    **dict.fromkeys(("mp3", "mpga", "x-mpeg"), "mpeg"),
    **dict.fromkeys(("x-wav", "wave", "vnd.wave"), "wav"),
    **dict.fromkeys(("x-m4a", "m4a"), "mp4"),
    **{name: name.removeprefix("x-") for name in ("x-aac", "x-flac", "x-aiff")},
}
_AGENT_ONLY = ("model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics")


def _moment(text: str) -> str:
    datetime.fromisoformat(text.replace("Z", "+00:00"))  # its ValueError says what is wrong
    return text


def _audio_type(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    kind, _, name = value.strip().lower().partition("/")
    return f"audio/{_AUDIO_NAMES.get(name, name)}" if kind == "audio" else f"{kind}/{name}"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageSource(_Model):
    """Where an image is."""

    media_type: ImageType
    path: str


class AudioSource(_Model):
    """Where a recording is (since 1.8)."""

    media_type: Annotated[AudioType, BeforeValidator(_audio_type)]
    path: str
    duration_sec: Annotated[float, Field(ge=0)] | None = None


class ContentPart(_Model):
    """A part of a message: text, or something to look at or listen to."""

    type: Literal["text", "image", "audio"]
    text: str | None = None
    source: ImageSource | AudioSource | None = None

    @model_validator(mode="after")
    def _holds_what_it_says(self) -> ContentPart:
        kinds: dict[str, type] = {"text": type(None), "image": ImageSource, "audio": AudioSource}
        is_text = self.type == "text"
        if (self.text is not None) != is_text or not isinstance(self.source, kinds[self.type]):
            raise ValueError(f"a part of type {self.type} holds {'text' if is_text else 'a source of its kind'} alone")
        return self


Content: TypeAlias = str | list[ContentPart]


class ToolCall(_Model):
    """A call the agent made."""

    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]
    extra: Extra = None


class SubagentTrajectoryRef(_Model):
    """Where the trajectory of a delegated agent is: in this document, or in a file."""

    trajectory_id: str | None = None
    session_id: str | None = None
    trajectory_path: str | None = None
    extra: Extra = None

    @model_validator(mode="after")
    def _leads_somewhere(self) -> SubagentTrajectoryRef:
        if self.trajectory_id is None and self.trajectory_path is None:
            raise ValueError("expected trajectory_id or trajectory_path: a session_id alone leads nowhere")
        return self


class ObservationResult(_Model):
    """What came back from a call, or from the environment when `source_call_id` is None."""

    source_call_id: str | None = None
    content: Content | None = None
    subagent_trajectory_ref: list[SubagentTrajectoryRef] | None = None
    extra: Extra = None


class Observation(_Model):
    """What came back in a step."""

    results: list[ObservationResult]


class Metrics(_Model):
    """Tokens of one model call, and what they cost."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    prompt_token_ids: TokenIds | None = None
    completion_token_ids: TokenIds | None = None
    logprobs: list[float] | None = None
    extra: Extra = None


class Step(_Model):
    """One message, with the calls and the observations that belong to it."""

    step_id: Annotated[int, Field(ge=1)]
    timestamp: Annotated[str, AfterValidator(_moment)] | None = None
    source: Literal["system", "user", "agent"]
    model_name: str | None = None
    reasoning_effort: str | float | None = None
    message: Content
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    observation: Observation | None = None
    metrics: Metrics | None = None
    is_copied_context: bool | None = None
    llm_call_count: Count | None = None
    extra: Extra = None

    @model_validator(mode="after")
    def _says_what_its_source_can(self) -> Step:
        if self.source != "agent":
            _refuse_all(self, _AGENT_ONLY, f"a step of source {self.source}")
        elif self.llm_call_count == 0:
            _refuse_all(self, ("metrics", "reasoning_content"), "a step with llm_call_count 0")
        return self

    @property
    def results(self) -> list[ObservationResult]:
        return [] if self.observation is None else self.observation.results


class Agent(_Model):
    """Who acted."""

    name: str
    version: str
    model_name: str | None = None
    tool_definitions: list[dict[str, Any]] | None = None
    extra: Extra = None


class FinalMetrics(_Model):
    """Sums over all steps."""

    total_prompt_tokens: int | None = None
    total_completion_tokens: int | None = None
    total_cached_tokens: int | None = None
    total_cost_usd: float | None = None
    total_steps: Count | None = None
    extra: Extra = None


class Document(_Model):
    """A whole trajectory."""

    schema_version: Version = VERSION
    session_id: str | None = None
    trajectory_id: str | None = None
    agent: Agent
    steps: Annotated[list[Step], Field(min_length=1)]
    notes: str | None = None
    final_metrics: FinalMetrics | None = None
    continued_trajectory_ref: str | None = None
    extra: Extra = None
    subagent_trajectories: list[Document] | None = None

    @model_validator(mode="after")
    def _is_numbered_and_linked(self) -> Document:
        for place, step in enumerate(self.steps):
            if step.step_id != place + 1:
                raise ValueError(f"steps[{place}].step_id is {step.step_id}, expected {place + 1}: they count from 1")
            calls = {call.tool_call_id for call in step.tool_calls or ()}
            for result in step.results:
                if result.source_call_id is not None and result.source_call_id not in calls:
                    raise ValueError(
                        f"steps[{place}] has a result of call {result.source_call_id!r}, which it does not make"
                    )
        _check_ids(sub.trajectory_id for sub in self.subagent_trajectories or ())
        return self


def is_atif(data: JsonObject) -> bool:
    """Return whether a JSON object looks like a document of this format."""
    return str(data.get("schema_version", "")).startswith("ATIF") or ("steps" in data and "agent" in data)


def _refuse_all(step: Step, names: Iterable[str], what: str) -> None:
    for name in names:
        if getattr(step, name) is not None:
            raise ValueError(f"{what} has no {name}")


def _check_ids(ids: Iterable[str | None]) -> None:
    seen: set[str] = set()
    for trajectory_id in ids:
        if trajectory_id is None or trajectory_id in seen:
            raise ValueError(
                f"subagent_trajectories: trajectory_id {trajectory_id!r}, expected one of its own for each"
            )
        seen.add(trajectory_id)
