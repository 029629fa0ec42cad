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

import zstandard

LOGPROB_SCALE = 2.0**16  # engines round logprobs to multiples of 2**-16 (agentgrpo.engines.round_logprob)

_LEVEL = 1  # of zstd: 3 takes a third longer for 1 to 3 % less
_ZSTD = b"\x28\xb5\x2f\xfd"  # how its frames begin; those of zlib begin with 0x78
_PLANES = {b"\x01": 4, b"\x02": 2, b"\x04": 4}  # how packed integers begin -> how many planes follow; 1: of zlib
_APART = b"\x00"  # how logprobs begin that are packed as differences
_MAGIC = 1.5 * 2.0**36  # a double this large counts in steps of 2**-16: the low half of its bits is that count
_RANGE = 32767.0
_LIMIT = 2**31 - 1
_NAN = -(2**31)  # the one int32 that no logprob uses
_ENTROPY_SCALE = 16.0
_UNKNOWN = 255  # the code of an entropy that is no number
_ENTROPIES = (*((code / _ENTROPY_SCALE) ** 2 for code in range(_UNKNOWN)), math.nan)


class _Zstd(threading.local):
    """Contexts take long to make and are no thread's but one's."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)  # as zlib has one
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
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"stored bytes cannot be read: {len(data)} are there, which is not where they end")
    return found


def pack_ints(values: Iterable[int]) -> bytes:
    """Return int32 values, compressed: all their lowest bytes first, then all second ones and so on."""
    return _pack_planes(array("i", list(values)).tobytes(), 4)  # a list: its length is known, which halves the time


def _pack_planes(data: bytes, width: int) -> bytes:
    """Return the four lowest bytes of each item in planes; the upper two only where they are not all 0, as in most ids.

    The lowest bytes look like noise and the others do not: a block of its own for each saves a twentieth.
    """
    places = range(4) if sys.byteorder == "little" else range(width - 1, width - 5, -1)
    planes = [data[place::width] for place in places]
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
    size, rest = divmod(len(planes), count)
    if rest:
        raise ValueError(f"stored bytes cannot be read: {len(planes)} do not make {count} planes")
    ordered = bytearray(4 * size)
    for place in range(count):
        ordered[place::4] = planes[place * size : (place + 1) * size]
    return bytes(ordered)


def pack_logprobs(values: Iterable[float]) -> bytes:
    """Return logprobs, within +-32767, as whole multiples of 2**-16, compressed; NaN is kept, the infinite clipped."""
    known = list(values)
    if not math.isfinite(sum(known)) or max(known, default=0.0) > _RANGE or min(known, default=0.0) < -_RANGE:
        return pack_ints(map(_to_int, known))  # out of range, or not a number: slower, and rare
    return _pack_planes(array("d", [value + _MAGIC for value in known]).tobytes(), 8)


def pack_beside(values: Iterable[float], others: bytes) -> bytes:
    """Return logprobs packed as what they differ by from other packed ones, of the same tokens in the same order.

    Learner and engine compute the same numbers in other orders: most of them are the same multiple of 2**-16.
    """
    own, known = unpack_ints(packed := pack_logprobs(values)), unpack_ints(others)
    if len(own) != len(known) or _NAN in own or _NAN in known:
        return packed
    apart = [one - other for one, other in zip(own, known, strict=True)]
    if max(map(abs, apart), default=0) > _LIMIT // 2:
        return packed
    return _APART + pack_ints(2 * step if step >= 0 else -2 * step - 1 for step in apart)


def unpack_beside(data: bytes, others: bytes) -> list[float]:
    """Return the logprobs `pack_beside` was given, with the same others."""
    if data[:1] != _APART:
        return unpack_logprobs(data)
    apart = (code // 2 if code % 2 == 0 else -(code + 1) // 2 for code in unpack_ints(data[1:]))
    return [(other + step) / LOGPROB_SCALE for step, other in zip(apart, unpack_ints(others), strict=True)]


def unpack_logprobs(data: bytes) -> list[float]:
    """Return the logprobs `pack_logprobs` was given, rounded to multiples of 2**-16."""
    return [math.nan if value == _NAN else value / LOGPROB_SCALE for value in unpack_ints(data)]


def pack_entropies(values: Iterable[float]) -> bytes:
    """Return entropies in nats as a byte each, compressed: finer near 0, where most are and where they differ.

    The byte is 16 times the root, so an entropy of 1 is known to 0.06, one of 0.1 to 0.02 and one of 0.01 to 0.007; no
    vocabulary is large enough for it to be clipped. NaN is kept.
    """
    return compress(bytes(map(_entropy_code, values)))


def unpack_entropies(data: bytes) -> list[float]:
    """Return the entropies `pack_entropies` was given, as far as it keeps them."""
    return [_ENTROPIES[code] for code in decompress(data)]


def _entropy_code(value: float) -> int:
    if math.isnan(value):
        return _UNKNOWN
    return round(min(_UNKNOWN - 1.0, _ENTROPY_SCALE * math.sqrt(max(0.0, value))))


def _to_int(value: float) -> int:
    if math.isnan(value):
        return _NAN
    return round(max(-_LIMIT, min(_LIMIT, value * LOGPROB_SCALE)))
