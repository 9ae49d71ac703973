"""Checksums of a folder's files: Orbax does not notice a changed byte inside an array."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

from etils import epath

NAME = "checksums.json"
_CHUNK = 1 << 22


def write(folder: epath.Path) -> None:
    """Writes `checksums.json`: relative path -> [bytes, CRC-32] of every file in `folder`."""
    found = {name: list(_measure(folder / name)) for name in _files(folder)}
    # Under a temporary name first: a half-written list would condemn a good checkpoint.
    draft = folder / f"{NAME}.tmp"
    draft.write_text(json.dumps(found))
    draft.rename(folder / NAME)


def problem(folder: epath.Path, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with the files of `folder`, or None.

    Every `shares`-th file is read, beginning with number `share`, so that processes divide the
    work. A folder without a list (its writer was stopped before it could leave one) has no
    problem as far as can be known.
    """
    try:
        expected = json.loads((folder / NAME).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return f"{NAME} is not readable"
    for name in sorted(expected)[share::shares]:
        path = folder / name
        if not path.exists():
            return f"the file {name} is missing"
        if list(_measure(path)) != expected[name]:
            return f"the file {name} is not as it was written"
    return None


def _files(folder: epath.Path) -> Iterator[str]:
    pending = [folder]
    while pending:
        current = pending.pop()
        for entry in current.iterdir():
            if entry.is_dir():
                pending.append(entry)
            elif not entry.name.startswith(NAME):
                yield str(entry.relative_to(folder))


def _measure(path: epath.Path) -> tuple[int, int]:
    size, crc = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc
