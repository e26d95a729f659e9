"""One tokenized sequence. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """A sequence as a network reads it."""

    ids: np.ndarray
    """int64 [L], special tokens included."""
    types: np.ndarray
    """int64 [L], 1 in the second text of a pair."""
