"""TRL's side of the comparison: `GRPOTrainer` with an environment factory, as its users write it. Needs trl alone."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from bench.side import Gate

SYSTEM = "Press the shown digit each time until done."


class Box:
    """What both environments do: the words, digits and reward of this project's lockbox.

    What `press` returns is not said, for TRL would put it into the prompt, and the other side's would be shorter.
    """

    turns, latency, slow_share = 4, 0.0, 0.0
    delays = random.Random(1)

    def reset(self, **row: Any) -> str:
        rng = random.Random(row["seed"])
        self.digits = [rng.randrange(10) for _ in range(self.turns)]
        self.position = self.hits = 0
        return self._shows()

    def get_reward(self) -> float:
        return self.hits / self.turns

    def _delay(self) -> float:
        return self.latency if self.delays.random() >= self.slow_share else 10 * self.latency

    def _press(self, digit: int) -> str:
        if self.position < self.turns:
            self.hits += digit == self.digits[self.position]
            self.position += 1
        return self._shows()

    def _shows(self) -> str:
        return "done" if self.position == self.turns else f"digit: {self.digits[self.position]}"


class SyncBox(Box):
    """A lockbox whose tool blocks."""

    def press(self, digit: int):  # type: ignore[no-untyped-def]
        """Press one digit.

        Args:
            digit: The digit.
        """
        time.sleep(self._delay())
        return self._press(digit)


class AsyncBox(Box):
    """A lockbox whose tool awaits."""

    async def press(self, digit: int) -> str:
        """Press one digit.

        Args:
            digit: The digit.
        """
        await asyncio.sleep(self._delay())
        return self._press(digit)


class HoldingTrainer(GRPOTrainer):
    """Keeps the tokens of the rollout, to be counted while it is held."""

    def _generate(self, prompts: list[Any]) -> Any:
        self.generated = super()._generate(prompts)
        return self.generated


class Hold(TrainerCallback):
    """Holds the training at the end of each optimizer step."""

    def __init__(self) -> None:
        self.trainer: HoldingTrainer | None = None
        self._gate = Gate()
        self._gate.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.trainer is not None
        prompts, completions, masks = self.trainer.generated[:3]
        count = len(prompts)
        rewards = self.trainer._metrics["train"]["reward"]
        calls = self.trainer._metrics["train"]["tools/call_frequency"]
        self._gate.step_done(
            {
                "trajectories": count,
                "tokens": _mean([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]),
                "sampled": _mean([sum(mask) for mask in masks]),
                "calls": calls[-1] if calls else None,
                "reward": rewards[-1] if rewards else None,
            }
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def configuration(settings: Mapping[str, Any], folder: str) -> GRPOConfig:
    """Return the trainer's configuration."""
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=settings["groups"] * settings["group_size"],
        num_generations=settings["group_size"],
        max_completion_length=settings["max_completion"],
        max_tool_calling_iterations=settings["turns"] + 1,
        max_steps=10**9,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        chat_template_kwargs={"enable_thinking": False},
        **settings.get("options", {}),
    )


def main() -> None:
    """Train until told no more."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    Box.turns, Box.latency, Box.slow_share = settings["turns"], settings["latency"], settings["slow_share"]
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    tokenizer.chat_template = qwen3_chat_template  # TRL knows a model by the very text of its template
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ""}]
    rank = settings["rank"]
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    hold = Hold()
    with tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder:
        hold.trainer = HoldingTrainer(
            model=model,
            args=configuration(settings, folder),
            train_dataset=Dataset.from_list([{"prompt": prompt, "seed": seed} for seed in range(1000)]),
            processing_class=tokenizer,
            environment_factory=SyncBox if settings["tool_kind"] == "sync" else AsyncBox,
            callbacks=[hold],
            peft_config=lora if rank else None,
        )
        hold.trainer.train()


if __name__ == "__main__":
    main()
