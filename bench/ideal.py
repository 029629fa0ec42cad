"""The least time a set of episodes can take: an event simulation with the same latencies and engine, no overhead."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from bench.workplace import Cost, Plan


def makespan(plans: Iterable[Plan], cost: Cost, places: int) -> float:
    """Return when the last of the episodes ends, `places` of them at once, in the order given.

    An episode asks the engine, waits for its tool, asks again. The engine works in ticks: whoever waits joins at the
    next one, whose length depends on how many there are; nothing else takes time.
    """
    waiting_episodes = list(plans)[::-1]
    turns: dict[int, list[tuple[int, float]]] = {}  # the turns of each episode that are still to come
    tools: list[tuple[float, int]] = []  # when a tool call ends, and whose
    asking: list[int] = []
    running: dict[int, int] = {}  # episode -> ticks left
    now, started = 0.0, 0

    def start() -> None:
        nonlocal started
        while waiting_episodes and len(turns) < places:
            turns[started] = list(waiting_episodes.pop().turns)
            asking.append(started)
            started += 1

    start()
    while turns:
        if not running and not asking:  # the engine waits for a tool
            now = max(now, tools[0][0])
        while tools and tools[0][0] <= now:
            asking.append(heapq.heappop(tools)[1])
        for episode in asking:
            running[episode] = cost.ticks(turns[episode][0][0])
        asking.clear()
        now += cost.seconds(len(running))
        for episode in list(running):
            running[episode] -= 1
            if not running[episode]:
                del running[episode]
                _, seconds = turns[episode].pop(0)
                if turns[episode]:
                    heapq.heappush(tools, (now + seconds, episode))
                else:
                    del turns[episode]
        start()
    return now
