"""How states of some Gymnasium environments read in words: JSON, whose words are the tokens a small model copies.

They know those environments' observations and what a player may see of their state, no more.
"""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np

_ICE = {b"S": "start", b"F": "ice", b"H": "hole", b"G": "goal"}
_SIDES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
_STOPS = "RGYB"
_NOTHING = (0, 1, 3, 10)  # MiniGrid's numbers of what is unseen, empty, floor, and the agent
_WALL, _DOOR = 2, 4


def frozen_lake(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """Describe FrozenLake: where one stands, what is on the four sides, and the map."""
    ice: Any = env.unwrapped
    row, column = divmod(int(observation), ice.ncol)
    sides = {name: _ice_at(ice, row + down, column + right) for name, (down, right) in _SIDES.items()}
    rows = [" ".join(letter.decode() for letter in line) for line in ice.desc]
    return _json({"row": row, "column": column, **sides, "map": rows})


def taxi(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """Describe Taxi: where the taxi and the passenger are, where to, and which ways are open."""
    cab: Any = env.unwrapped
    row, column, passenger, destination = map(int, cab.decode(int(observation)))
    roads = {
        "south": row < 4,
        "north": row > 0,
        "east": _is_open(cab, row, column),
        "west": _is_open(cab, row, column - 1),
    }
    return _json(
        {
            "row": row,
            "column": column,
            "passenger": "taxi" if passenger == len(_STOPS) else _STOPS[passenger],
            "destination": _STOPS[destination],
            "open": [side for side, is_open in roads.items() if is_open],
        }
    )


def blackjack(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """Describe Blackjack: the hand's sum, whether an ace in it counts 11, and the dealer's card."""
    total, dealer, ace = map(int, observation)
    return _json({"sum": total, "usable_ace": bool(ace), "dealer": dealer})


def minigrid(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """Describe MiniGrid and BabyAI as the agent sees them: the mission, the way ahead, what is where in view."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX

    view, states = observation["image"], {index: name for name, index in STATE_TO_IDX.items()}
    here, seen = view.shape[0] // 2, {}
    for place in map(tuple, np.argwhere(~np.isin(view[:, :, 0], _NOTHING))):
        kind, colour, state = (int(number) for number in view[place])
        name = IDX_TO_OBJECT[kind] if kind == _WALL else f"{IDX_TO_COLOR[colour]} {IDX_TO_OBJECT[kind]}"
        name = f"{states[state]} {name}" if kind == _DOOR else name
        seen[int(place[0]) - here, view.shape[1] - 1 - int(place[1])] = name
    carried = seen.pop((0, 0), None)
    free = next((n for n in range(1, view.shape[1]) if (0, n) in seen), view.shape[1]) - 1
    things = [f"{name} {_place(*where)}" for where, name in sorted(seen.items(), key=_distance) if name != "wall"]
    described = {"mission": observation["mission"], "free": free, "then": seen.get((0, free + 1)), "sees": things}
    return _json({key: value for key, value in {**described, "carries": carried}.items() if value is not None})


def minigrid_map(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    """Describe MiniGrid and BabyAI from above: the mission and the whole grid, two characters for each cell.

    They are MiniGrid's own, but for grey, which is x there: it would read as green does.
    """
    grid: Any = env.unwrapped
    rows = grid.pprint_grid().split("\n")
    for row, column in np.ndindex(grid.grid.height, grid.grid.width):
        tile = grid.grid.get(column, row)
        if tile is not None and tile.color == "grey" and (column, row) != tuple(grid.agent_pos):
            rows[row] = rows[row][: 2 * column + 1] + "x" + rows[row][2 * column + 2 :]
    return "\n".join([f"mission: {observation['mission']}", *rows])


def _ice_at(ice: Any, row: int, column: int) -> str:
    is_inside = 0 <= row < ice.nrow and 0 <= column < ice.ncol
    return _ICE[bytes(ice.desc[row, column])] if is_inside else "edge"


def _is_open(cab: Any, row: int, column: int) -> bool:
    """Whether one can drive east from a cell: the map has a colon there, not a wall."""
    return bool(cab.desc[1 + row, 2 * column + 2] == b":")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _place(right: int, forward: int) -> str:
    """Return a place relative to the agent; what is not said is 0."""
    steps = [f"{forward} forward"] if forward else []
    return " ".join([*steps, *([f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else [])])


def _distance(item: tuple[tuple[int, int], str]) -> tuple[int, tuple[int, int]]:
    return abs(item[0][0]) + item[0][1], item[0]
