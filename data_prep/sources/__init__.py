"""Where documents come from: one small class per kind of input, chosen by `open_sources`.

To add a kind, write a `Source` and an entry in `BY_PREFIX` (``name:...``) or `BY_ENDING` (files) of `inputs`.
"""

from data_prep.sources.base import Document, Piece, Source, all_pieces
from data_prep.sources.inputs import open_sources

__all__ = ["Document", "Piece", "Source", "all_pieces", "open_sources"]
