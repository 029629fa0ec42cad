"""Messages <-> token ids, exactly, on the `renderers` library. It knows neither engines nor environments.

What a model sampled is never re-tokenized: the next prompt extends the ids there are, or the caller forks. Content
never becomes control: each prompt whose content could is proved against the same prompt with harmless content.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import renderers
from renderers.configs import config_from_name
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agentgrpo import causal_lm
from agentgrpo.content import Controls, map_message, map_text
from agentgrpo.errors import ConfigError, ModelError, ParseFailure, first_line
from agentgrpo.replies import ReplyReader
from agentgrpo.types import ROLES, AssistantMessage, JsonObject, Message, ToolCall

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
_FORGED = "content that spells control tokens changes what the chat template makes of the conversation"
_SHORT = 32  # tokens
T = TypeVar("T")
Build = Callable[[list[Message], list[Any] | None], renderers.RenderedTokens | None]


class CachedTokenizer:
    """A tokenizer that remembers what it did: system blocks and scaffolding recur in every prompt of a run.

    Of what it decoded only the short: renderers look at the few tokens a prompt ends in again and again.
    """

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self.inner = inner
        self._encoded = lru_cache(maxsize=4096)(self._encode)
        self._with_offsets = lru_cache(maxsize=4096)(self._encode_with_offsets)
        self._decoded = lru_cache(maxsize=4096)(self._decode)

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

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Return the text of ids."""
        if not isinstance(token_ids, list) or len(token_ids) > _SHORT or options != {"skip_special_tokens": False}:
            return self.inner.decode(token_ids, **options)
        return self._decoded(tuple(token_ids))

    def _decode(self, token_ids: tuple[int, ...]) -> Any:
        return self.inner.decode(list(token_ids), skip_special_tokens=False)

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
        self._controls = Controls(tokenizer)
        self._marks_content = bool(_probe(renderer.render).is_content)
        self._specs = lru_cache(maxsize=64)(self._make_specs)
        self._replies = ReplyReader(tokenizer, renderer)

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
            ModelError: no tokenizer or chat template there, or one that is damaged.
            ConfigError: the renderer is unknown or does not have the thinking option asked for.
        """
        causal_lm.check_name(path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
        except Exception as error:  # a damaged file makes the libraries raise as they like
            raise ModelError(
                f"cannot load a tokenizer from '{path}': {first_line(error)}\n"
                "Give [model] path a folder with tokenizer.json, or a hub name this machine can reach."
            ) from error
        options = {"enable_thinking": enable_thinking, "thinking_retention": thinking_retention}
        options = {k: v for k, v in options.items() if v is not None}
        cached: Any = CachedTokenizer(tokenizer)
        return cls(cached, _make_renderer(cached, str(path), renderer, options))

    def render(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> list[int]:
        """Return the ids of a whole prompt, ready for the model's next turn.

        Raises:
            ParseFailure: the template refuses these messages.
        """
        ids = self._proved(self._prompt, messages, tools, 0)
        assert ids is not None  # only an extension may be none
        return ids

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

        def build(news: list[Message], specs: list[Any] | None) -> renderers.RenderedTokens | None:
            rendered = self.renderer.bridge_to_next_turn(list(prompt_ids), list(completion_ids), news, tools=specs)
            return rendered if rendered is not None and rendered.token_ids[: len(known)] == known else None

        return self._proved(build, messages, tools, len(known))

    def parse(
        self, completion_ids: Sequence[int], prompt_ids: Sequence[int], tools: Sequence[JsonObject], *, call_prefix: str
    ) -> AssistantMessage:
        """Parse sampled ids into a message. Total: a call that cannot be read becomes a `BadCall`, alone."""
        reply = self._replies.read(completion_ids, prompt_ids, self._specs(json.dumps(tools))[0], call_prefix)
        restore = self._controls.put_together
        calls = [
            replace(call, name=restore(call.name), arguments=map_text(call.arguments, restore))
            if isinstance(call, ToolCall)
            else call
            for call in reply.calls
        ]
        return replace(reply, content=restore(reply.content), calls=tuple(calls))

    def completion(self, action: JsonObject) -> list[int]:
        """Return the ids a model would have sampled to take a canonical action (for demonstrations).

        Raises:
            ParseFailure: the template renders the same question differently once it is answered.
        """
        message, controls = assistant_message(action), self._controls
        ids = self._answer(map_message(message, controls.break_up))
        harmless = map_message(message, controls.hidden)
        if harmless == message:
            return ids
        expected = controls.of(self._answer(harmless))
        if controls.of(ids) != expected:
            ids = self._answer(map_message(message, controls.break_all))
        if controls.of(ids) != expected:
            raise ParseFailure(_FORGED)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, control tokens included."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _prompt(self, messages: list[Message], specs: list[Any] | None) -> renderers.RenderedTokens:
        if not self._marks_content:  # then it marks nothing, and renders once instead of once per message
            ids = self.renderer.render_ids(messages, tools=specs, add_generation_prompt=True)
            return renderers.RenderedTokens(token_ids=list(ids))
        return self.renderer.render(messages, tools=specs, add_generation_prompt=True)

    def _proved(
        self, build: Build, messages: Sequence[Message], tools: Sequence[JsonObject], start: int
    ) -> list[int] | None:
        """Return the ids `build` makes, once it is proved that no content became control (from `start` on).

        Content that gives no reason to doubt is rendered once: its ids are the chat template's own.
        """
        controls = self._controls
        try:
            plain = [_checked(message) for message in messages]
            broken, all_broken, harmless = self._specs(json.dumps(tools))
            own = [map_message(m, controls.break_up) if m["role"] == "assistant" else m for m in plain]
            rendered = build(own, broken)
            hidden = [map_message(m, controls.hidden) for m in plain]
            if hidden == plain and harmless is broken:
                return None if rendered is None else list(rendered.token_ids)
            proof = build(hidden, harmless)
            if proof is None or rendered is None:
                return None
            expected = controls.of(proof.token_ids[start:])
            if rendered.is_content and controls.of((ids := controls.plain(rendered, start))[start:]) == expected:
                return ids
            for change, specs in ((controls.break_up, broken), (controls.break_all, all_broken)):
                rendered = build([map_message(m, change) for m in plain], specs)
                if rendered is not None and controls.of(rendered.token_ids[start:]) == expected:
                    return list(rendered.token_ids)
        except ParseFailure:
            raise
        except Exception as error:
            raise ParseFailure(f"the chat template could not render the conversation: {error}") from error
        raise ParseFailure(_FORGED)

    def _make_specs(self, tools: str) -> tuple[list[Any] | None, list[Any] | None, list[Any] | None]:
        """Return tools for the template (they are scaffold): broken up, all broken up, and harmless."""
        controls, schemas = self._controls, json.loads(tools)
        if not schemas:
            return None, None, None
        harmless = map_text(schemas, controls.harmless)
        broken = map_text(schemas, controls.break_up)
        return broken, map_text(schemas, controls.break_all), broken if harmless == schemas else harmless

    def _answer(self, message: Message) -> list[int]:
        """Return the ids of an assistant message as they follow a prompt, to its end."""
        question: list[Message] = [{"role": "user", "content": "?"}]
        before = self.decode(self._prompt(question, None).token_ids)
        text = self.decode(self.renderer.render([*question, message]).token_ids)
        if not text.startswith(before):
            raise ParseFailure(f"the chat template changes its prompt {before[-80:]!r} once it is answered")
        ids: list[int] = self.tokenizer.encode(text[len(before) :], add_special_tokens=False)
        ends = [i for i, token in enumerate(ids) if token in self.stop_token_ids]
        return ids[: ends[0] + 1] if ends else ids


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


def _checked(message: Message) -> Message:
    """Return a message for the template: one of the known roles, its content text, keys that are ours alone dropped.

    Raises:
        ParseFailure: its role or content is none a template knows.
    """
    plain = {k: v for k, v in message.items() if k != "is_error"}
    role, content = plain.get("role"), plain.get("content")
    if role not in ROLES:
        raise ParseFailure(f"a message has the role {role!r}; expected one of {', '.join(ROLES)}")
    if isinstance(content, list):  # joined here: a text in two parts must not become one after it was looked at
        content = plain["content"] = "".join(map(_part, content))
    if not isinstance(content, str | None):
        raise ParseFailure(f"a message's content is of type {type(content).__name__}; expected text")
    return plain


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        raise ParseFailure(f"a part of a message's content is {str(part)[:60]}; expected text, other kinds come later")
    return text


def _make_renderer(
    tokenizer: PreTrainedTokenizerBase, path: str, name: str, options: dict[str, Any]
) -> renderers.Renderer:
    if name != "auto":
        return _named_renderer(tokenizer, name, options)
    known = renderers.base.MODEL_RENDERER_MAP.get(path)
    if known is not None:
        return _named_renderer(tokenizer, known, options)
    guess = _BY_MODEL_TYPE.get(_model_type(path))
    with suppress(ConfigError, ModelError):  # it cannot be built on this tokenizer, or the template is another
        if guess and _agrees(renderer := _named_renderer(tokenizer, guess, options), tokenizer, options):
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
    except (ValueError, TypeError, LookupError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"the '{name}' renderer does not take {options or 'this tokenizer'}: {error}") from error


def _model_type(path: str) -> str:
    file = Path(path) / "config.json"
    if not file.is_file():
        return ""
    return str(json.loads(file.read_text(encoding="utf-8")).get("model_type", ""))


def _agrees(renderer: renderers.Renderer, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> bool:
    """Whether a renderer's ids equal those of the tokenizer's own chat template on a probe."""
    template_options = {k: v for k, v in options.items() if k == "enable_thinking"}

    def agree(messages: list[Message]) -> bool:
        expected = tokenizer.apply_chat_template(
            messages, tools=[*_PROBE_TOOLS], add_generation_prompt=True, return_dict=False, **template_options
        )
        got = renderer.render(messages, tools=_PROBE_TOOLS, add_generation_prompt=True).token_ids
        return list(got) == list(expected)

    return _probe(agree)


def _probe(ask: Callable[[list[Message]], T]) -> T:
    """Ask about a short conversation; one without a system message where the chat template refuses those.

    Raises:
        ModelError: the template renders neither.
    """
    with suppress(Exception):  # what a template, or what renders it, raises is its own choice
        return ask(list(_PROBE))
    try:
        return ask(_PROBE[1:])
    except Exception as error:
        raise ModelError(
            f"the chat template cannot render a question: {first_line(error)}\n"
            "Put a chat_template.jinja that can into the model folder, or name a renderer that needs none "
            "([model] renderer)."
        ) from error
