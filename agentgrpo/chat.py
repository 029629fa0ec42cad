"""Messages <-> token ids, exactly, on the `renderers` library. It knows neither engines nor environments.

What a model sampled is never re-tokenized: the next prompt extends the ids there are, or the caller forks. Content can
never become control: text that spells a control token is encoded without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import renderers
from renderers.configs import config_from_name
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agentgrpo.errors import ConfigError, ModelError, ParseFailure
from agentgrpo.tooling import encodable
from agentgrpo.types import AssistantMessage, BadCall, JsonObject, Message, ToolCall

logger = logging.getLogger(__name__)

_BY_MODEL_TYPE = {
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_5": "qwen3.5",
    "llama": "llama-3",
    "gpt_oss": "gpt-oss",
}
_PROBE: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there."}]
_PROBE_TOOLS: list[JsonObject] = [
    {
        "type": "function",
        "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
    }
]
_EXPECTED = {
    "invalid_json": 'expected {"name": <tool>, "arguments": {...}} as JSON',
    "unclosed": "the call was cut off before its end; write it again, shorter",
    "missing_name": 'expected {"name": <tool>, "arguments": {...}}: the name is missing or no string',
    "malformed": "the call is not in the form the system message describes",
    "invalid_arguments": "expected arguments to be a JSON object",
}
_STATUS = {
    "invalid_json": "invalid_json",
    "unclosed_block": "unclosed",
    "missing_name": "missing_name",
    "malformed_structure": "malformed",
}


class CachedTokenizer:
    """A tokenizer that remembers what it encoded: system blocks and scaffolding recur in every prompt of a run."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner
        self._encoded = lru_cache(maxsize=4096)(self._encode)
        self._with_offsets = lru_cache(maxsize=4096)(self._encode_with_offsets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text; options other than `add_special_tokens=False` are not cached."""
        if options != {"add_special_tokens": False}:
            return list(self.inner.encode(text, **options))
        return list(self._encoded(text))

    def __call__(self, text: Any, **options: Any) -> Any:
        if not isinstance(text, str) or options != {"add_special_tokens": False, "return_offsets_mapping": True}:
            return self.inner(text, **options)
        return self._with_offsets(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.inner.encode(text, add_special_tokens=False))

    def _encode_with_offsets(self, text: str) -> Any:
        return self.inner(text, add_special_tokens=False, return_offsets_mapping=True)


class Chat:
    """One tokenizer and chat template: renders prompts, extends them, parses what was sampled."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, renderer: renderers.Renderer) -> None:
        self.tokenizer = tokenizer
        self.renderer = renderer
        self.renderer_name = str(renderer.config.name) if hasattr(renderer, "config") else "custom"
        self.stop_token_ids = tuple(renderer.get_stop_token_ids())
        controls = {str(text): int(i) for text, i in tokenizer.get_added_vocab().items()}
        self._control_text = {i: text for text, i in controls.items()}
        # What delimits turns has no place inside one, whoever wrote it; calls and thinking have, in the model's own.
        self._delimiters = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        self._content_tokenizer = _without_added_tokens(tokenizer)
        self._marks_content = bool(renderer.render(list(_PROBE)).is_content)
        self._defused: dict[str, list[Any]] = {}

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        renderer: str = "auto",
        enable_thinking: bool | None = None,
        thinking_retention: str | None = None,
    ) -> Chat:
        """Load the tokenizer of a model folder or hub name and the renderer that matches its chat template.

        Args:
            path: Model folder or hub name.
            renderer: A name the `renderers` library knows, or "auto": by name, else by architecture when the ids it
                renders equal the tokenizer's own chat template's.
            enable_thinking: For models with a thinking mode; None is the template's default.
            thinking_retention: What happens to past thinking ("tool_cycle", "all"); None is the template's own rule.

        Raises:
            ModelError: no tokenizer or chat template there.
            ConfigError: the renderer is unknown or does not have the thinking option asked for.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"cannot load a tokenizer from '{path}': {str(error).splitlines()[0]}") from error
        options = {"enable_thinking": enable_thinking, "thinking_retention": thinking_retention}
        options = {k: v for k, v in options.items() if v is not None}
        cached: Any = CachedTokenizer(tokenizer)
        return cls(cached, _make_renderer(cached, str(path), renderer, options))

    def render(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> list[int]:
        """Return the ids of a whole prompt, ready for the model's next turn.

        Raises:
            ParseFailure: the template refuses these messages.
        """
        return self._neutralise(self._render(messages, tools), 0)

    def extend(
        self,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        messages: Sequence[Message],
        tools: Sequence[JsonObject],
    ) -> list[int] | None:
        """Return `prompt_ids + completion_ids` followed by the new messages, or None when that cannot be proved.

        Raises:
            ParseFailure: the template refuses these messages.
        """
        known = [*prompt_ids, *completion_ids]
        try:
            rendered = self.renderer.bridge_to_next_turn(
                list(prompt_ids), list(completion_ids), list(map(self._plain, messages)), tools=self._specs(tools)
            )
        except Exception as error:
            raise ParseFailure(f"the chat template could not extend the conversation: {error}") from error
        if rendered is None or rendered.token_ids[: len(known)] != known:
            return None
        return self._neutralise(rendered, len(known))

    def parse(
        self, completion_ids: Sequence[int], prompt_ids: Sequence[int], tools: Sequence[JsonObject], *, call_prefix: str
    ) -> AssistantMessage:
        """Parse sampled ids into a message. Total: a call that cannot be read becomes a `BadCall`, alone."""
        try:
            parsed = self.renderer.parse_response(
                list(completion_ids), tools=self._specs(tools), prompt_ids=list(prompt_ids)
            )
        except Exception as error:  # a parser bug or a text no parser survives is the model's error, not the run's
            raw = self.decode(completion_ids)
            logger.debug("parser raised %r on %r", error, raw)
            return AssistantMessage(content="", calls=(_bad(f"{call_prefix}_0", raw, "malformed"),))
        calls = tuple(_call(f"{call_prefix}_{i}", c) for i, c in enumerate(parsed.tool_calls))
        return AssistantMessage(content=parsed.content, calls=calls, reasoning=parsed.reasoning_content)

    def completion(self, action: JsonObject) -> list[int]:
        """Return the ids a model would have sampled to take a canonical action (for demonstrations).

        Raises:
            ParseFailure: the template renders the same question differently once it is answered.
        """
        question: list[Message] = [{"role": "user", "content": "?"}]
        before = self.decode(self._render(question, ()).token_ids)
        full = self.renderer.render(list(map(self._plain, [*question, assistant_message(action)])))
        text = self.decode(full.token_ids)
        if not text.startswith(before):
            raise ParseFailure(f"the chat template changes its prompt {before[-80:]!r} once it is answered")
        ids: list[int] = self.tokenizer.encode(text[len(before) :], add_special_tokens=False)
        ends = [i for i, token in enumerate(ids) if token in self.stop_token_ids]
        return ids[: ends[0] + 1] if ends else ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, control tokens included."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _render(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> renderers.RenderedTokens:
        try:
            return self.renderer.render(
                list(map(self._plain, messages)), tools=self._specs(tools), add_generation_prompt=True
            )
        except Exception as error:
            raise ParseFailure(f"the chat template could not render the conversation: {error}") from error

    def _neutralise(self, rendered: renderers.RenderedTokens, start: int) -> list[int]:
        """Replace control ids inside content (from `start` on) by the plain ids of their text."""
        if not rendered.is_content:
            return list(rendered.token_ids)
        out = list(rendered.token_ids[:start])
        roles = rendered.message_roles
        for k in range(start, len(rendered.token_ids)):
            token, owner = rendered.token_ids[k], rendered.message_indices[k]
            is_forged = rendered.is_content[k] and token in self._control_text and roles[owner] != "assistant"
            out += self._plain_ids(self._control_text[token]) if is_forged else [token]
        return out

    def _plain_ids(self, text: str) -> list[int]:
        ids = self._content_tokenizer.encode(text, add_special_tokens=False).ids
        if not self._control_text.keys() & set(ids):
            return list(ids)
        pieces = [self._content_tokenizer.encode(c, add_special_tokens=False).ids for c in text]
        return [i for piece in pieces for i in piece if i not in self._control_text]

    def _specs(self, tools: Sequence[JsonObject]) -> list[Any] | None:
        """Return tool schemas for the template; they are scaffold, so text that spells a control is broken up."""
        if not tools:
            return None
        key = json.dumps(tools, sort_keys=True)
        if key not in self._defused:
            self._defused = {key: _defuse(list(tools), self._control_text.values())}
        return self._defused[key]

    def _plain(self, message: Message) -> Any:
        """Drop keys that are ours alone, and break up control text where no content mask would find it."""
        plain = {k: v for k, v in message.items() if k != "is_error"}
        if message["role"] == "assistant":
            return _defuse(plain, self._delimiters)
        return plain if self._marks_content else _defuse(plain, self._control_text.values())


def assistant_message(action: JsonObject) -> Message:
    """Return the OpenAI-style assistant message of a canonical action, for rendering history anew."""
    calls, content = [], action["content"]
    for call in action["tool_calls"]:
        if "error" in call:
            content += call["raw"]
        else:
            function = {"name": call["name"], "arguments": call["arguments"]}
            calls.append({"type": "function", "id": call["id"], "function": function})
    message: Message = {"role": "assistant", "content": content, "tool_calls": calls}
    return message | ({"reasoning_content": action["reasoning"]} if action.get("reasoning") else {})


def _defuse(value: Any, controls: Collection[str]) -> Any:
    """Break up text that spells a control token, with a space of no width, anywhere in a JSON value."""
    if isinstance(value, dict):
        return {_defuse(k, controls): _defuse(v, controls) for k, v in value.items()}
    if isinstance(value, list):
        return [_defuse(v, controls) for v in value]
    if isinstance(value, str):
        for text in controls:
            value = value.replace(text, text[0] + "\u200b" + text[1:])
    return value


def _bad(call_id: str, raw: str, error_type: str, name: str | None = None) -> BadCall:
    head = raw if len(raw) <= 120 else raw[:100] + "..."
    message = f"got {head!r}; {_EXPECTED[error_type]}"
    return BadCall(id=call_id, raw=raw, error_type=error_type, error_message=message, name=name)


def _call(call_id: str, parsed: renderers.ParsedToolCall) -> ToolCall | BadCall:
    status = str(parsed.status)
    arguments: Any = parsed.arguments
    if status in _STATUS:
        return _bad(call_id, parsed.raw, _STATUS[status], parsed.name)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return _bad(call_id, parsed.raw, "invalid_arguments", parsed.name)
    if not isinstance(parsed.name, str):
        return _bad(call_id, parsed.raw, "missing_name")
    if not isinstance(arguments, dict):
        return _bad(call_id, parsed.raw, "invalid_arguments", parsed.name)
    # JSON can spell lone surrogates, which no tokenizer takes when the call is rendered again.
    arguments = json.loads(encodable(json.dumps(arguments, ensure_ascii=False)))
    return ToolCall(id=call_id, name=encodable(parsed.name), arguments=arguments)


def _without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["added_tokens"], data["post_processor"] = [], None
    return Tokenizer.from_str(json.dumps(data))


def _make_renderer(
    tokenizer: PreTrainedTokenizerBase, path: str, name: str, options: dict[str, Any]
) -> renderers.Renderer:
    if name != "auto":
        return _named_renderer(tokenizer, name, options)
    known = renderers.base.MODEL_RENDERER_MAP.get(path)
    if known is not None:
        return _named_renderer(tokenizer, known, options)
    guess = _BY_MODEL_TYPE.get(_model_type(path), "")
    if guess:
        renderer = _named_renderer(tokenizer, guess, options)
        if _agrees(renderer, tokenizer, options):
            return renderer
    logger.warning(
        "%s: no renderer matches this chat template; using the template itself, which forks at every turn. "
        "Name one with [model] renderer if you know it fits.",
        path,
    )
    return _named_renderer(tokenizer, "default", options)


def _named_renderer(tokenizer: PreTrainedTokenizerBase, name: str, options: dict[str, Any]) -> renderers.Renderer:
    try:
        config = config_from_name(name)
    except ValueError as error:
        raise ConfigError(f"[model] renderer = '{name}' is not one the renderers library has: {error}") from error
    if name == "default":
        options = {"tool_parser": "qwen3", **options}
    try:
        return renderers.create_renderer(tokenizer, type(config)(**options))
    except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the '{name}' renderer does not take {options or 'this tokenizer'}: {error}") from error


def _model_type(path: str) -> str:
    file = Path(path) / "config.json"
    if not file.is_file():
        return ""
    return str(json.loads(file.read_text(encoding="utf-8")).get("model_type", ""))


def _agrees(renderer: renderers.Renderer, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> bool:
    """Whether a renderer's ids equal those of the tokenizer's own chat template on a probe."""
    template_options = {k: v for k, v in options.items() if k == "enable_thinking"}
    expected = tokenizer.apply_chat_template(
        _PROBE, tools=[*_PROBE_TOOLS], add_generation_prompt=True, return_dict=False, **template_options
    )
    got = renderer.render(_PROBE, tools=_PROBE_TOOLS, add_generation_prompt=True).token_ids
    return list(got) == list(expected)
