"""The configurations on docs/environments-elsewhere.md, as a reader would copy them."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentgrpo.config.run import load_config
from agentgrpo.envs import ADAPTERS
from agentgrpo.registry import resolve_env

PAGE = (Path(__file__).parents[1] / "docs" / "environments-elsewhere.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "env = " in block]
NEEDS = {"bfcl": "bfcl_eval", "reasoning_gym": "reasoning_gym", "verifiers": "textarena"}


def test_every_adapter_has_a_configuration_there() -> None:
    assert {tomllib.loads(block)["env"] for block in BLOCKS} == set(ADAPTERS) - {"mcp", "mixture"}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_copied_configuration_names_an_environment(block: str) -> None:
    config = load_config(tomllib.loads(block))
    package = NEEDS.get(config.env)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert resolve_env(config.env, **config.env_args).id.startswith("agentgrpo/")


def test_the_files_it_links_to_are_there() -> None:
    for target in re.findall(r"\]\((\.\./[^)#]+|images/[^)#]+)\)", PAGE):
        assert (Path(__file__).parents[1] / "docs" / target).resolve().exists(), target
