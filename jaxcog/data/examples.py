"""tf.train.Example records without TensorFlow: what TFRecord and ArrayRecord files of pairs hold.

Only what such files use: a map from names to lists of bytes, of floats or of integers.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from jaxcog.data.types import BadRecord

Values = list[bytes] | list[int] | list[float]

_BYTES, _FLOATS, _INTEGERS = 1, 2, 3


def record_spans(path: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """(offset, size) of each record of a TFRecord file. Raises BadRecord where it is cut off.

    A record is its length, that length's checksum, its bytes and their checksum. Only lengths are
    checked: bytes that rotted show when they are decoded.
    """
    end = os.path.getsize(path)
    with open(path, "rb") as file:
        while head := file.read(12):
            offset = file.tell()
            if len(head) < 12:
                raise BadRecord("it ends within the length of a record")
            size, checksum = struct.unpack("<QI", head)
            if _masked_crc(head[:8]) != checksum:
                raise BadRecord("the length of a record does not fit its checksum")
            if offset + size + 4 > end:
                raise BadRecord("it ends within a record")
            yield offset, size
            file.seek(offset + size + 4)


def framed(record: bytes) -> bytes:
    """A record as TFRecord files hold it."""
    length = struct.pack("<Q", len(record))
    checksums = (struct.pack("<I", _masked_crc(data)) for data in (length, record))
    return length + next(checksums) + record + next(checksums)


@functools.cache
def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli) of each byte, bits reversed."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _masked_crc(data: bytes) -> int:
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def encode_example(features: Mapping[str, Values]) -> bytes:
    """A serialised Example; the kind of a list is that of its first value."""
    entries = b""
    for name, values in features.items():
        entries += _field(1, _field(1, name.encode()) + _field(2, _feature(values)))
    return _field(1, entries)


def decode_example(data: bytes) -> dict[str, Values]:
    """Name -> values. Raises BadRecord where the bytes are no complete Example."""
    try:
        found: dict[str, Values] = {}
        for _, features in _fields(data):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                found[parts[1].decode()] = _values(parts.get(2, b""))
        return found
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise BadRecord(f"not a tf.train.Example ({type(error).__name__}: {error})") from error


def _feature(values: Values) -> bytes:
    if values and isinstance(values[0], bytes):
        return _field(_BYTES, b"".join(_field(1, value) for value in values))
    if values and isinstance(values[0], float):
        return _field(_FLOATS, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(_INTEGERS, _field(1, b"".join(_varint(int(value)) for value in values)))


def _values(feature: bytes) -> Values:
    values: list[Any] = []
    for kind, content in _fields(feature):
        for _, item in _fields(content):
            if kind == _BYTES:
                values.append(item)
            elif kind == _FLOATS:
                values += struct.unpack(f"<{len(item) // 4}f", item)
            elif isinstance(item, int):
                values.append(item)
            else:
                values += _packed(item)
    return values


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, content) of a message; varints as int, 4-byte numbers as bytes."""
    at = 0
    content: int | bytes
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            content, at = _read_varint(data, at)
        else:
            size, at = _read_varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            if at + size > len(data):
                raise ValueError("the record ends in the middle of a field")
            content, at = data[at : at + size], at + size
        yield number, content


def _packed(item: bytes) -> list[int]:
    values, at = [], 0
    while at < len(item):
        value, at = _read_varint(item, at)
        values.append(value - (1 << 64) if value >> 63 else value)
    return values
