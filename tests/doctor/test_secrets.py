"""Keys in a config are named by their place and never printed."""

from __future__ import annotations

from agentgrpo.doctor.report import Level
from agentgrpo.doctor.secrets import check_secrets

KEY = "sk-" + "a1B2" * 8


def test_keys_are_found_anywhere_and_not_repeated() -> None:
    config = {"env_args": {"api": {"key": KEY}, "more": ["fine", f"Bearer {KEY}"], KEY: 1}}
    found = list(check_secrets(config))
    assert [f.level for f in found] == [Level.FAIL] * 3
    assert {"env_args.api.key", "env_args.more[1]"} <= {f.text.split()[0] for f in found}
    assert all("environment variable" in f.fix for f in found)
    assert not any(KEY in f.text + f.fix for f in found)


def test_a_clean_config_is_clean() -> None:
    assert [f.level for f in check_secrets({"env_args": {"key_variable": "SHOP_KEY"}})] == [Level.OK]
