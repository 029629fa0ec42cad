"""A verifiers taskset as its authors write them: counting letters with a tool, and a user who asks a second time."""

from __future__ import annotations

from collections.abc import Iterable

import verifiers.v1 as vf

WORDS = ["strawberry", "banana", "committee", "mississippi", "tennessee", "bookkeeper", "balloon", "coffee"] * 4


class LettersData(vf.TaskData):
    word: str
    letter: str


class LettersState(vf.State):
    counted: int = 0


class LettersTools(vf.Toolset[vf.ToolsetConfig, LettersState]):
    async def setup_task(self, task: LettersData) -> None:
        self.word = task.word

    @vf.tool
    async def count(self, letter: str) -> int:
        """Count a letter in the word."""
        if len(letter) != 1:
            raise ValueError("one letter, please")
        self.state.counted += 1
        return self.word.count(letter)


class LettersTask(vf.Task[LettersData, LettersState, vf.TaskConfig]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [LettersTools(vf.ToolsetConfig())]

    @vf.reward
    async def right(self, task: LettersData, trace: vf.Trace) -> float:
        return float(trace.last_reply == str(task.word.count(task.letter)))

    @vf.reward(weight=0.25)
    async def looked(self, trace: vf.Trace) -> float:
        return float(trace.state.counted > 0 and len(trace.tool_messages) > 0)


class LettersTaskset(vf.Taskset[LettersTask, vf.TasksetConfig]):
    def load(self) -> Iterable[LettersTask]:
        for index, word in enumerate(WORDS):
            letter = word[index % len(word)]
            data = LettersData(
                prompt=f"How often is {letter} in {word}?",
                system_prompt="Answer with a number.",
                word=word,
                letter=letter,
            )
            yield LettersTask(data, self.config.task)


__all__ = ["LettersTaskset"]
