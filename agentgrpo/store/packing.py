"""Numbers and text as few bytes and back, exactly, or to the unit that is said.

It knows neither trajectories nor files. What earlier versions packed with zlib is read as well.
"""

from __future__ import annotations

import math
import sys
import threading
import zlib
from array import array
from collections.abc import Iterable

import numpy as np
import zstandard

LOGPROB_SCALE = 2.0**16  # engines round logprobs to multiples of 2**-16 (agentgrpo.engines.round_logprob)

_LEVEL = 1  # of zstd: 3 takes a third longer for 1 to 3 % less
_ZSTD = b"\x28\xb5\x2f\xfd"  # how its frames begin; those of zlib begin with 0x78
_PLANES = {b"\x01": 4, b"\x02": 2, b"\x04": 4}  # how packed integers begin -> how many planes follow; 1: of zlib
_LIMIT = 2.0**31 - 1
_NAN = -(2.0**31)  # the one int32 that no logprob uses
_ENTROPY_SCALE = 16.0
_UNKNOWN = 255  # the code of an entropy that is no number
_ENTROPIES = (*((code / _ENTROPY_SCALE) ** 2 for code in range(_UNKNOWN)), math.nan)


class _Zstd(threading.local):
    """Contexts take long to make and are no thread's but one's."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def compress(data: bytes) -> bytes:
    """Return data in less room."""
    return _zstd.compressor.compress(data)


def decompress(data: bytes) -> bytes:
    """Return the data that `compress` was given.

    Raises:
        ValueError: the bytes are not what was written.
    """
    try:
        unpacker = _zstd.decompressor.decompressobj() if data.startswith(_ZSTD) else zlib.decompressobj()
        found = unpacker.decompress(data)
    except (zstandard.ZstdError, zlib.error) as error:
        raise ValueError(f"stored bytes cannot be read: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"stored bytes cannot be read: {len(data)} of them are there, and they go on")
    return found


def pack_ints(values: Iterable[int]) -> bytes:
    """Return int32 values, compressed: all their lowest bytes first, then all second ones and so on."""
    return _pack_planes(array("i", list(values)).tobytes())  # a list: its length is known, which halves the time


def _pack_planes(data: bytes) -> bytes:
    """Return the planes of int32 values; the upper two only where they are not all 0, as those of ids are.

    The lowest bytes look like noise and the others do not: a block of its own for each saves a twentieth.
    """
    planes = [data[place::4] for place in (range(4) if sys.byteorder == "little" else range(3, -1, -1))]
    if not (planes[2].strip(b"\0") or planes[3].strip(b"\0")):
        planes = planes[:2]
    packer = _zstd.compressor.compressobj()
    lowest = packer.compress(planes[0]) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    others = packer.compress(b"".join(planes[1:])) + packer.flush()
    return b"".join((bytes([len(planes)]), lowest, others))


def unpack_ints(data: bytes) -> array[int]:
    """Return the values `pack_ints` was given, in whatever form it has ever left them.

    Raises:
        ValueError: the bytes are not what was written.
    """
    count = _PLANES.get(data[:1])
    ordered = decompress(data) if count is None else _unpack_planes(decompress(data[1:]), count)
    values = array("i")
    values.frombytes(ordered)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _unpack_planes(planes: bytes, count: int) -> bytes:
    size = len(planes) // count
    ordered = bytearray(4 * size)
    for place in range(count):
        ordered[place::4] = planes[place * size : (place + 1) * size]
    return bytes(ordered)


def pack_logprobs(values: Iterable[float]) -> bytes:
    """Return logprobs, within +-32767, as whole multiples of 2**-16, compressed; NaN is kept, the infinite clipped."""
    known = np.array(list(values), dtype=np.float64)
    counted = np.rint(np.clip(known * LOGPROB_SCALE, -_LIMIT, _LIMIT))
    return _pack_planes(np.where(np.isnan(counted), _NAN, counted).astype(np.int32).tobytes())


def unpack_logprobs(data: bytes) -> list[float]:
    """Return the logprobs `pack_logprobs` was given, rounded to multiples of 2**-16."""
    return [math.nan if value == _NAN else value / LOGPROB_SCALE for value in unpack_ints(data)]


def pack_entropies(values: Iterable[float]) -> bytes:
    """Return entropies in nats as a byte each, compressed: finer near 0, where most are and where they differ.

    The byte is 16 times the root, so an entropy of 1 is known to 0.06, one of 0.1 to 0.02 and one of 0.01 to 0.007; no
    vocabulary is large enough for it to be clipped. NaN is kept.
    """
    known = np.array(list(values), dtype=np.float64)
    codes = np.rint(np.minimum(_ENTROPY_SCALE * np.sqrt(np.maximum(known, 0.0)), _UNKNOWN - 1.0))
    return compress(np.where(np.isnan(codes), _UNKNOWN, codes).astype(np.uint8).tobytes())


def unpack_entropies(data: bytes) -> list[float]:
    """Return the entropies `pack_entropies` was given, as far as it keeps them."""
    return [_ENTROPIES[code] for code in decompress(data)]
