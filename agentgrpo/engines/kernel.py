"""What a pass computes on the CPU beside matrix products, as compiled loops: attention, norms, rotations.

A query attends to the blocks of its own sequence in the slot cache. It adds up these in order, whatever else is in the
pass and however the sequence was fed: what it gets is the same to the last bit. Torch has no such operation: its own
pads ragged sequences to one length, and adds up in an order that depends on it.

It knows arrays: no model, no tensors, no threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 32  # positions in a block of keys
_STEP = 8  # products added up before a sum is stored: a constant, so that the loop over them is unrolled
_HIDDEN = np.float32("-inf")
_SMALLEST = np.float32(-126)  # of the exponents of two that a float32 has
# 2^x for 0 <= x < 1, highest power first: within 2e-7 of it, relatively.
_EXP2 = tuple(
    map(np.float32, (1.5403530e-4, 1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0))
)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    """Compile at the first call, once per machine; sums keep their order, and numbers may be none."""
    return cast(F, njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")(function))


@_compiled
def store(table: Ints, slots: Ints, positions: Ints, k: Floats, v: Floats, keys: Floats, values: Floats) -> None:
    """Write the keys and values [N, K, D] of tokens into the cache, at these slots and positions [N]."""
    for n in range(len(slots)):
        block, place = table[slots[n], positions[n] // BLOCK], positions[n] % BLOCK
        for head in range(k.shape[1]):
            for d in range(k.shape[2]):
                keys[block, head, d, place] = k[n, head, d]
                values[block, head, place, d] = v[n, head, d]


@_compiled
def attend(table: Ints, runs: Ints, q: Floats, scale: float, keys: Floats, values: Floats, out: Floats) -> None:
    """Attend with queries [N, H, D] to the cached positions of their sequences, their own and those before it.

    Args:
        table: Whose blocks: [slots, most].
        runs: Consecutive queries of one sequence each [R, 4]: the first, how many, the slot, the first's position.
        q: The queries.
        scale: What a product of query and key is multiplied with before the softmax.
        keys: Of one layer [blocks, K, D, BLOCK].
        values: Of the same [blocks, K, BLOCK, D].
        out: Where the results go [N, H, D].
    """
    heads, width = keys.shape[1], keys.shape[2]
    groups, size = q.shape[1] // heads, width * BLOCK
    rows_most = runs[:, 1].max() * groups
    columns_most = (runs[:, 1] + runs[:, 3]).max() // BLOCK + 1
    asked, sums = np.empty((rows_most, width), np.float32), np.empty((rows_most, width), np.float32)
    totals = np.empty(rows_most, np.float32)
    weights = np.empty((rows_most, columns_most * BLOCK), np.float32)
    powers = np.empty(columns_most * BLOCK, np.int32)
    flat_keys, flat_values = keys.reshape(-1), values.reshape(-1)
    factor = np.float32(scale * np.log2(np.e))  # powers of two are cheaper than those of e
    for run in range(len(runs)):
        first, count, slot, position = runs[run]
        rows, columns = count * groups, (position + count - 1) // BLOCK + 1
        for head in range(heads):
            for row in range(rows):
                for d in range(width):
                    asked[row, d] = q[first + row // groups, head * groups + row % groups, d] * factor
            for column in range(columns):
                start = (table[slot, column] * heads + head) * size
                for row in range(rows):
                    _multiply(asked[row], flat_keys[start : start + size], weights[row, column * BLOCK :])
            for row in range(rows):
                totals[row] = _weigh(weights[row, : columns * BLOCK], position + row // groups + 1, powers)
                for d in range(width):
                    sums[row, d] = 0
            for column in range(columns):
                start = (table[slot, column] * heads + head) * size
                for row in range(rows):
                    seen = min(BLOCK, position + row // groups - column * BLOCK + 1)
                    _add(weights[row, column * BLOCK :], flat_values[start : start + size], seen, sums[row])
            for row in range(rows):
                for d in range(width):
                    out[first + row // groups, head * groups + row % groups, d] = sums[row, d] / totals[row]


@_compiled
def _multiply(query: Floats, keys: Floats, scores: Floats) -> None:
    """Set scores [BLOCK] to the products of a query [D] with a block of keys [D * BLOCK]."""
    width = len(query)
    for j in range(BLOCK):
        scores[j] = 0
    for d in range(0, width - width % _STEP, _STEP):
        k = keys[d * BLOCK : (d + _STEP) * BLOCK]
        a, b, c, e = query[d], query[d + 1], query[d + 2], query[d + 3]
        f, g, h, i = query[d + 4], query[d + 5], query[d + 6], query[d + 7]
        for j in range(BLOCK):
            low = a * k[j] + b * k[BLOCK + j] + c * k[2 * BLOCK + j] + e * k[3 * BLOCK + j]
            high = f * k[4 * BLOCK + j] + g * k[5 * BLOCK + j] + h * k[6 * BLOCK + j] + i * k[7 * BLOCK + j]
            scores[j] += low + high
    for d in range(width - width % _STEP, width):
        for j in range(BLOCK):
            scores[j] += query[d] * keys[d * BLOCK + j]


@_compiled
def _weigh(scores: Floats, seen: int, powers: NDArray[np.int32]) -> float:
    """Turn the first `seen` scores into 2^(score - highest), the others into zeros; return the sum.

    A score that is no number makes a sum that is none: whoever asked has to learn of it.
    """
    lanes = np.full(BLOCK, _HIDDEN)
    for i in range(0, seen - seen % BLOCK, BLOCK):
        for j in range(BLOCK):
            lanes[j] = scores[i + j] if scores[i + j] > lanes[j] else lanes[j]
    for i in range(seen - seen % BLOCK, seen):
        lanes[0] = scores[i] if scores[i] > lanes[0] else lanes[0]
    highest = lanes[0]
    for j in range(BLOCK):
        highest = lanes[j] if lanes[j] > highest else highest
    for i in range(len(scores)):
        power = scores[i] - highest
        power = _SMALLEST if power < _SMALLEST else power
        whole = np.floor(power)
        x = power - whole
        y = _EXP2[0] * x + _EXP2[1]
        y = y * x + _EXP2[2]
        y = y * x + _EXP2[3]
        y = y * x + _EXP2[4]
        y = y * x + _EXP2[5]
        scores[i] = y * x + _EXP2[6]
        powers[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    floats = powers.view(np.float32)
    for i in range(seen):
        scores[i] *= floats[i]
    for i in range(seen, len(scores)):
        scores[i] = 0
    for j in range(BLOCK):
        lanes[j] = 0
    for i in range(0, len(scores), BLOCK):
        for j in range(BLOCK):
            lanes[j] += scores[i + j]
    total: Any = np.float32(0)
    for j in range(BLOCK):
        total += lanes[j]
    return total  # type: ignore[no-any-return]  # numpy float or float: the same to whoever divides by it


@_compiled
def _add(weights: Floats, values: Floats, seen: int, sums: Floats) -> None:
    """Add the first `seen` of a block of values [BLOCK * D], weighted, to sums [D]."""
    width = len(sums)
    for j in range(0, seen, _STEP):  # weights behind the last one seen are zero
        v = values[j * width : (j + _STEP) * width]
        a, b, c, e = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        f, g, h, i = weights[j + 4], weights[j + 5], weights[j + 6], weights[j + 7]
        for d in range(width):
            low = a * v[d] + b * v[width + d] + c * v[2 * width + d] + e * v[3 * width + d]
            high = f * v[4 * width + d] + g * v[5 * width + d] + h * v[6 * width + d] + i * v[7 * width + d]
            sums[d] += low + high


@_compiled
def rms_norm(rows: Floats, weight: Floats, epsilon: float, out: Floats) -> None:
    """Set out [N, W] to rows [N, W], each scaled to mean square 1 and weighted (RMSNorm, Zhang and Sennrich 2019)."""
    width = rows.shape[1]
    for n in range(len(rows)):
        scale = _scale_of(rows[n], epsilon)
        for d in range(width):
            out[n, d] = rows[n, d] * scale * weight[d]


@_compiled
def turn(heads: Floats, weight: Floats, epsilon: float, cos: Floats, sin: Floats) -> None:
    """Turn heads [N, H, D] by their positions' cos and sin [N, D] (RoPE, Su et al. 2021), in place.

    First each is normed with weight [D], unless that is empty.
    """
    half = heads.shape[2] // 2
    for n in range(heads.shape[0]):
        for h in range(heads.shape[1]):
            head = heads[n, h]
            if len(weight):
                scale = _scale_of(head, epsilon)
                for d in range(2 * half):
                    head[d] *= scale * weight[d]
            for d in range(half):
                left, right = head[d], head[half + d]
                head[d] = left * cos[n, d] - right * sin[n, d]
                head[half + d] = right * cos[n, half + d] + left * sin[n, half + d]


@_compiled
def _scale_of(row: Floats, epsilon: float) -> float:
    lanes = np.zeros(_STEP, np.float32)
    for d in range(0, len(row) - len(row) % _STEP, _STEP):
        for j in range(_STEP):
            lanes[j] += row[d + j] * row[d + j]
    total = np.float32(0)
    for d in range(len(row) - len(row) % _STEP, len(row)):
        total += row[d] * row[d]
    for j in range(_STEP):
        total += lanes[j]
    scale: float = np.float32(1) / np.sqrt(total / np.float32(len(row)) + np.float32(epsilon))
    return scale
