"""Model folders: tokenizers and templates that do not do, and which renderer is taken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.chat import Chat
from agentgrpo.errors import ConfigError, ModelError, ParseFailure
from tests.conversations import SYSTEM, TOOLS, USER, template_ids
from tests.hostile import QWEN, byte_tokenizer

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_folder_without_a_tokenizer_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a tokenizer"):
        Chat.from_folder(tmp_path)


def test_a_damaged_tokenizer_is_the_users_to_fix(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    for text in ("", '{"version":', '{"version": "1.0", "model": {"type": "BPE"}}'):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(ModelError, match=r"cannot load a tokenizer from .*\n.*tokenizer\.json"):
            Chat.from_folder(folder)


def with_template(tiny_folder: Path, folder: Path, template: str | None, tokens: tuple[str, ...] = QWEN) -> Path:
    """Return the folder of a Qwen3 config with a tokenizer of bytes and this chat template."""
    tokenizer: Any = byte_tokenizer(tokens)
    tokenizer.chat_template, tokenizer.eos_token = template, "<|im_end|>"
    tokenizer.save_pretrained(folder)
    shutil.copy(tiny_folder / "config.json", folder)
    return folder


@pytest.mark.parametrize("renderer", ["auto", "default"])
@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "chat_template is not set"),
        ("{% for m in messages %}{{ m['content'] }{% endfor %}", "unexpected '}'"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ raise_exception('') }}", "TemplateError"),
    ],
)
def test_a_chat_template_that_renders_nothing_is_the_users_to_fix(
    tiny_folder: Path, tmp_path: Path, template: str | None, said: str, renderer: str
) -> None:
    folder = with_template(tiny_folder, tmp_path, template)
    with pytest.raises(ModelError, match=rf"cannot render a question: .*{said}.*\nPut a chat_template.jinja"):
        Chat.from_folder(folder, renderer=renderer)


@pytest.mark.parametrize("renderer", ["auto", "default"])
def test_a_template_may_refuse_system_messages(tiny_folder: Path, tmp_path: Path, renderer: str) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    chat = Chat.from_folder(with_template(tiny_folder, tmp_path, refusal + PLAIN), renderer=renderer)
    assert chat.decode(chat.render([USER], [])) == "<|im_start|>user\ndigit: 7<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ParseFailure, match="no system message"):
        chat.render([SYSTEM, USER], [])


def test_a_guessed_renderer_that_cannot_be_built_is_not_taken(tiny_folder: Path, tmp_path: Path) -> None:
    folder = with_template(tiny_folder, tmp_path, PLAIN, ("<|im_start|>", "<|im_end|>"))
    assert Chat.from_folder(folder).renderer_name == "default"
    with pytest.raises(ConfigError, match="the 'qwen3' renderer does not take this tokenizer"):
        Chat.from_folder(folder, renderer="qwen3")


def test_an_unknown_renderer_is_the_users_to_fix(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="'qwen9'"):
        Chat.from_folder(tiny_folder, renderer="qwen9")
    with pytest.raises(ConfigError, match="does not take"):
        Chat.from_folder(tiny_folder, renderer="default", thinking_retention="tool_cycle", enable_thinking=False)


def test_another_template_gets_the_renderer_that_never_lies(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A template changed by its owner no longer agrees with the architecture's renderer: it is used itself."""
    tokenizer = Chat.from_folder(tiny_folder).tokenizer.inner
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    file = tmp_path / "chat_template.jinja"
    file.write_text(file.read_text().replace("# Tools", "# My tools"))
    chat = Chat.from_folder(tmp_path)
    assert "no renderer matches" in caplog.text
    assert chat.render([SYSTEM, USER], TOOLS) == template_ids(chat, [SYSTEM, USER], TOOLS)
    assert chat.extend(chat.render([USER], TOOLS), chat.completion({"content": "ok", "tool_calls": []}), [], ()) is None
