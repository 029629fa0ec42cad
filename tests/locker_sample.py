# ruff: noqa
# mypy: ignore-errors
# fmt: off
import agentgrpo as ag

class Locker(ag.ToolEnv):
    """Find the locker that belongs to a name and open it."""

    def reset_task(self, task):                      # task: one row (a dict) of the training or held-out set
        self.lockers, self.opened = task["lockers"], None
        return f"Open the locker of {task['name']}."

    @ag.tool
    def find(self, name: str) -> str:
        """Return the number of the locker that belongs to a name."""
        if name not in self.lockers:
            raise ag.ToolError(f"nobody is called {name}")      # the model reads this, the run goes on
        return self.lockers[name]

    @ag.tool
    async def unlock(self, number: str) -> str:
        """Open a locker by its number."""
        self.opened = number
        return "open"

    def reward(self):
        return {"outcome": float(self.opened == self.lockers[self.task["name"]])}

if __name__ == "__main__":  # or: agentgrpo train locker.toml
    run = ag.train("locker.toml", env=Locker, tasks="lockers.jsonl")
    print(run.summary)
