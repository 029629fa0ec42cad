"""Broken set-ups: what is wrong is said where it is, with what to do, and the rest is still looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.cli.main import main
from tests.doctor.conftest import Doctor, Examination

ENV = '''
import agentgrpo as ag

class Button(ag.ToolEnv):
    """Press it."""
    @classmethod
    def tasks(cls, split="train"):
        return [{"task_id": f"{split}-{i}", "text": f"{split} {i}"} for i in range(4)]
    def reset_task(self, task):
        return PROMPT
    @ag.tool
    def press(self) -> str:
        """Press it."""
        self.pressed = True
        return "pressed"
    def reward(self):
        return 0.0
'''


def the_failure(found: Examination, part: str) -> dict[str, Any]:
    """Return the one failure there is, in this part."""
    assert (found.code, list(found.failures())) == (1, [part]), found.report
    (failure,) = found.failures()[part]
    return failure


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sound_set_up_is_ready(project: Path, doctor: Doctor) -> None:
    before = sorted(p for p in project.rglob("*"))
    found = doctor("run.toml")
    assert (found.code, found.failures()) == (0, {}), found.report
    assert "skip" not in {level for part in found.report["parts"] for level in found.levels(part)}
    parts = found.report["parts"]
    (memory,) = parts["memory"]["findings"]
    assert 1e8 < memory["values"]["low"] <= memory["values"]["high"] < memory["values"]["limit"]
    assert 0 < parts["time"]["findings"][0]["values"]["middle"] < 3600
    assert parts["logprobs"]["findings"][0]["values"]["max"] <= 1e-4
    assert sorted(p for p in project.rglob("*")) == before  # nothing of the user's was written


def test_no_such_model_folder(project: Path, doctor: Doctor) -> None:
    found = doctor("run.toml", "--set", "model.path=modle")
    failure = the_failure(found, "model")
    assert "no model folder 'modle'" in failure["text"]
    assert "folders beside it: model" in failure["text"]
    assert found.levels("environment").count("fail") == 0  # still looked at
    assert found.levels("chat") == ["skip"]
    assert "ok" in found.levels("secrets")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"])
def test_a_model_whose_weights_are_broken(project: Path, doctor: Doctor, content: bytes) -> None:
    (project / "model" / "model.safetensors").write_bytes(content)
    failure = the_failure(doctor("run.toml"), "model")
    assert "model.safetensors' is broken" in failure["text"]
    assert "git lfs pull" in failure["fix"]


def test_a_model_whose_weights_are_cut_off(project: Path, doctor: Doctor) -> None:
    file = project / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "is broken" in the_failure(doctor("run.toml"), "model")["text"]


def test_a_tokenizer_without_chat_template(project: Path, doctor: Doctor) -> None:
    (project / "model" / "chat_template.jinja").unlink()
    assert "chat template" in the_failure(doctor("run.toml"), "chat")["text"]


def test_a_tokenizer_with_more_tokens_than_the_embedding(project: Path, doctor: Doctor) -> None:
    file = project / "model" / "tokenizer.json"
    data = json.loads(file.read_text())
    last = max(t["id"] for t in data["added_tokens"])
    more = [data["added_tokens"][-1] | {"id": last + i, "content": f"<more_{i}>"} for i in range(1, 4)]
    edit(file, added_tokens=data["added_tokens"] + more)
    found = doctor("run.toml")
    assert found.code == 1
    assert "3 of them crash the run" in found.failures()["model"][0]["text"]


def test_an_environment_that_does_not_exist(project: Path, doctor: Doctor) -> None:
    found = doctor("run.toml", "--set", "env=lokbox", "--set", "env_args={}")
    assert "Did you mean 'lockbox'" in the_failure(found, "environment")["text"]
    assert "fail" not in found.levels("model") + found.levels("chat")
    assert found.levels("rollout") == ["skip"]


def test_an_environment_whose_reset_raises(project: Path, doctor: Doctor) -> None:
    (project / "button_broken.py").write_text(ENV.replace("PROMPT", "task['missing']"))
    found = doctor("run.toml", "--set", "env=button_broken:Button", "--set", "env_args={}")
    assert found.code == 1
    texts = [f["text"] for f in found.failures()["environment"]]
    assert any("KeyError" in text and "missing" in text for text in texts), texts
    assert "ok" in found.levels("model")


def test_a_tasks_file_with_a_bad_row(project: Path, doctor: Doctor) -> None:
    (project / "button_fine.py").write_text(ENV.replace("PROMPT", "'Press.'"))
    (project / "rows.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "c"}\n')
    found = doctor("run.toml", "--set", "env=button_fine:Button", "--set", "env_args={}", "--set", "tasks=rows.jsonl")
    failure = found.failures()["environment"][0]
    assert found.code == 1
    assert "rows.jsonl" in failure["text"]
    assert "2" in failure["text"]


def test_lora_targets_that_do_not_exist(project: Path, doctor: Doctor) -> None:
    found = doctor("run.toml", "--set", 'model.lora.targets=["q_prog"]')
    failure = found.failures()["model"][0]
    assert (found.code, "q_prog" in failure["text"]) == (1, True)
    assert "q_proj" in failure["fix"]
    assert found.levels("rollout") == ["skip"]


def test_a_model_whose_attention_the_engine_does_not_compute(project: Path, doctor: Doctor) -> None:
    edit(
        project / "model" / "config.json",
        use_sliding_window=True,
        sliding_window=16,
        max_window_layers=0,
        layer_types=["sliding_attention"] * 2,
    )
    failure = the_failure(doctor("run.toml"), "model")
    assert "sliding_attention" in failure["text"]
    assert "Qwen3 or Llama 3" in failure["text"]


def test_a_context_too_small_for_the_prompt(project: Path, doctor: Doctor) -> None:
    found = doctor("run.toml", "--set", "engine.context_length=8")
    failure = found.failures()["chat"][0]
    assert (found.code, "no episode can begin" in failure["text"]) == (1, True)
    assert "context_length" in failure["fix"]


def test_more_sequences_than_there_is_memory(project: Path, doctor: Doctor) -> None:
    found = doctor("run.toml", "--set", "engine.max_sequences=100000000")
    failure = the_failure(found, "memory")
    assert "set engine.max_sequences = " in failure["fix"]
    assert found.levels("rollout") == ["skip"]
    assert any("KV cache" in name for name in failure["values"]["parts"])


def test_a_model_larger_than_the_machine(project: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgrpo.doctor.machine.cgroup_limit", lambda: 100_000)
    found = doctor("run.toml")
    assert found.code == 1
    assert "the weights alone take" in found.failures()["model"][0]["text"]
    assert found.levels("rollout") == ["skip"]
    assert "fail" in found.levels("memory")


def test_more_episodes_at_once_than_the_engine_holds(project: Path, doctor: Doctor) -> None:
    file = project / "run.toml"
    file.write_text(file.read_text().replace("concurrency = 128\n", ""))  # one that is asked for would be refused
    found = doctor("run.toml", "--set", "engine.max_sequences=3")
    assert found.code == 0, found.report
    assert "the others wait" in json.dumps(found.report["parts"]["rollout"])


def test_a_folder_that_cannot_be_written(project: Path, doctor: Doctor) -> None:
    failure = the_failure(doctor("run.toml", "--set", "train.runs=/proc/runs"), "disk")
    assert "cannot be written" in failure["text"]
    (project / "file").write_text("")
    failure = the_failure(doctor("run.toml", "--set", "train.runs=file"), "disk")
    assert "is a file" in failure["text"]


def test_a_disk_that_is_full(project: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgrpo.doctor.machine.disk_free", lambda folder: 100_000)
    failure = the_failure(doctor("run.toml"), "disk")
    assert "the run needs" in failure["text"]
    assert "free space" in failure["fix"]


def test_a_secret_in_the_config(project: Path, doctor: Doctor) -> None:
    key = "hf_" + "aB1" * 10
    (project / "button_key.py").write_text(ENV.replace("PROMPT", "'Press.'"))
    found = doctor("run.toml", "--set", f"reward_weights.{key}=1.0")
    (failure,) = found.failures()["secrets"]
    assert found.code == 1
    assert "environment variable" in failure["fix"]
    assert key not in json.dumps(found.report["parts"]["secrets"])


def test_a_typo_in_the_config_is_exit_code_2(project: Path, doctor: Doctor) -> None:
    found = doctor("run.toml", "--set", "rollout.group_sise=4")
    assert (found.code, found.report["exit_code"]) == (2, 2)
    assert "unknown key 'rollout.group_sise'. Did you mean 'group_size'?" in found.report["error"]


def test_a_config_that_is_not_there_is_one_line_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["agentgrpo", "doctor", str(tmp_path / "nowhere.toml")])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("error: no config file")


def test_a_model_that_the_run_will_make(project: Path, doctor: Doctor) -> None:
    sections = ["warm_start.sft.episodes=40", "warm_start.sft.steps=20", "warm_start.tiny.vocab_size=700"]
    sections += ["warm_start.tiny.hidden_size=32", "warm_start.tiny.layers=2", "model.path=models/new"]
    found = doctor("run.toml", *[word for section in sections for word in ("--set", section)])
    assert found.code == 0, found.report
    assert not (project / "models").exists()
    stages = found.report["parts"]["time"]["findings"][0]["values"]["stages"]
    assert {"warm start: demonstrations", "warm start: training", "rollouts", "learning"} <= stages.keys()


def test_an_environment_whose_tasks_come_from_the_config(project: Path, doctor: Doctor) -> None:
    (project / "button_rows.py").write_text(ENV.replace("PROMPT", "task['text']"))
    (project / "rows.jsonl").write_text("".join(f'{{"text": "Press {i}."}}\n' for i in range(8)))
    sections = ["env=button_rows:Button", "env_args={}", "tasks=rows.jsonl", "heldout=0.25"]
    found = doctor("run.toml", *[word for section in sections for word in ("--set", section)])
    assert (found.code, found.failures()) == (0, {}), found.report
    assert "6 training tasks, 2 held out" in json.dumps(found.report["parts"]["environment"])
    text = json.dumps(found.report["parts"]["rollout"])
    assert "every episode of this group earned 0" in text  # this environment rewards nothing
    assert "no oracle" in json.dumps(found.report["parts"]["time"])
