"""Sizes of files and names on the hub as people write them. Imports no torch."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B", re.IGNORECASE)
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_LONGEST = 80
"""Characters of a repository's name, what is put behind it left out; the hub takes 96."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def shard_bytes(text: str) -> int:
    """Bytes that ``5GB`` and the like stand for (powers of 1,000, as transformers counts).

    Raises:
        ValueError: not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if size < 1:
        raise ValueError(f"shard_size={text}: expected a size such as 5GB, 500MB or 2.5GB")
    return size


def check_repository(name: str) -> None:
    """Refuse what cannot name a repository on the hub.

    Raises:
        ValueError: with what was expected.
    """
    if not _REPOSITORY.fullmatch(name) or len(name) > _LONGEST or ".." in name or "--" in name:
        raise ValueError(f"push_to_hub={name}: expected OWNER/NAME; each network becomes OWNER/NAME-NETWORK")
