"""Files that are written whole or not at all, and whose content is verified before it is parsed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from amortvi.io.trees import decode, encode

__all__ = ["read_tree", "write_tree"]

_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_BLANK = b"0" * 64
_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, in which the metadata are."""
_STALE = 3600.0
"""The seconds after which a partial file belongs to a process that was killed."""


def write_tree(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree to one safetensors file, atomically: after a crash, the file is the old one or the new one.

    The metadata of the file hold the tree as JSON, with the names of its tensors, and the SHA-256 of the whole file, computed
    with zeros in its place.

    Raises:
        CheckpointError: a part of the tree cannot be saved.
        OSError: the file cannot be written; it is then as before.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(encode(tree, tensors, "run")["dict"], allow_nan=False, separators=(",", ":"))
    named = {name.removeprefix("run."): tensor for name, tensor in tensors.items()}
    content = bytearray(safetensors.torch.save(named, {"amortvi": text, "sha256": _BLANK.decode()}))
    place = _place_of_digest(content)
    assert place is not None
    content[place] = hashlib.sha256(content).hexdigest().encode()
    _replace(path, content)


def read_tree(path: Path) -> dict[str, Any]:
    """Return the tree in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError: it is damaged, or no such file.
    """
    content = bytearray(path.read_bytes())
    place = _place_of_digest(content)
    if place is None:
        raise ValueError("it is no saved run")
    digest = bytes(content[place])
    content[place] = _BLANK
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its checksum is wrong")
    tensors = {f"run.{name}": tensor for name, tensor in safetensors.torch.load(bytes(content)).items()}
    metadata = json.loads(content[_LENGTH_BYTES : _header_end(content)])["__metadata__"]
    found = decode({"dict": json.loads(metadata["amortvi"])}, tensors)
    if not isinstance(found, dict):
        raise TypeError("its metadata are no mapping")
    return found


def _header_end(content: bytearray) -> int:
    return _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")


def _place_of_digest(content: bytearray) -> slice | None:
    # Quotes inside the other metadata are escaped, so that there is one match.
    found = _DIGEST.search(content, 0, min(len(content), _header_end(content)))
    return None if found is None else slice(*found.span(1))


def _replace(path: Path, content: bytes | bytearray) -> None:
    """Write a file that no other process can have opened, and rename it to ``path`` once it is on the disk."""
    _remove_stale(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if os.name == "posix":
        # The new name must be on the disk, too.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove_stale(path: Path) -> None:
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE:
                partial.unlink()
