"""Which tokens go on with the word before them, read from a shard set's tokenizer. Needs no tokenizer library."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from electra_ds.errors import DataError, UserError

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3040, 0x31FF),  # kana, Bopomofo
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no space between words: a piece is as near to a word as a tokenizer comes."""


def continuation_table(folder: str | os.PathLike[str], vocab_size: int) -> np.ndarray:
    """Say of each token whether it continues the word that the token before it belongs to.

    ``tokenizer.json`` decides how that is spelled: WordPiece by its prefix (``##``), SentencePiece by a missing ``▁``,
    byte-level BPE by a missing ``Ġ``. Special and added tokens, pieces of punctuation alone, and pieces that begin in a
    script without spaces are never continuations.

    Args:
        folder: the tokenizer folder.
        vocab_size: V, ids in use.

    Returns:
        bool [V].

    Raises:
        DataError: no ``tokenizer.json``, or not one that can be read.
        UserError: a kind of tokenizer whose pieces do not tell where words begin.
    """
    path = Path(folder) / "tokenizer.json"
    try:
        value = json.loads(path.read_text("utf-8"))
        pieces = dict(_pieces(value["model"]))
        added = {int(token["id"]) for token in value.get("added_tokens") or ()}
        continues, text_of = _rule(value, path, pieces.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"tokenizer {path}: cannot be read ({error!r}); restore it, or prepare the shards anew"
        ) from error
    table = np.zeros(vocab_size, bool)
    for id_, piece in pieces.items():
        if id_ < vocab_size and id_ not in added and continues(piece):
            table[id_] = not _stands_alone(text_of(piece))
    return table


def _pieces(model: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Id and spelling of every entry: Unigram lists them with scores, the other models map spellings to ids."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        yield from ((id_, entry[0]) for id_, entry in enumerate(vocabulary))
    else:
        yield from ((id_, piece) for piece, id_ in vocabulary.items())


def _rule(value: dict[str, Any], path: Path, pieces: Any) -> tuple[Callable[[str], bool], Callable[[str], str]]:
    """Return two functions of a piece: whether it lacks the mark of a word's first, and the text it stands for."""
    model = value["model"]
    parts = list(_parts(value.get("pre_tokenizer"))) + list(_parts(value.get("normalizer")))
    prefix = model.get("continuing_subword_prefix")
    if model.get("type") == "WordLevel":
        return (lambda _: False), str
    if prefix and model.get("type") in ("WordPiece", "BPE"):
        return (lambda piece: piece.startswith(prefix)), (lambda piece: piece.removeprefix(prefix))
    if not model.get("end_of_word_suffix"):
        by_bytes = any(part["type"] == "ByteLevel" for part in parts)
        space = "Ġ" if by_bytes else _metaspace(parts)
        if space and any(piece.startswith(space) for piece in pieces):
            return (lambda piece: not piece.startswith(space)), (_bytes_to_text if by_bytes else str)
    raise UserError(
        f"tokenizer {path}: its pieces do not tell where words begin (a {model.get('type')} model without a prefix on "
        "continuations, or '▁' or 'Ġ' on first pieces), so words cannot be masked as a whole; "
        "set objective.masking to token"
    )


def _parts(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer or normalizer, taken out of the sequences it stands in."""
    if step is None:
        return
    for inner in step.get("pretokenizers") or step.get("normalizers") or ():
        yield from _parts(inner)
    yield step


def _metaspace(parts: list[dict[str, Any]]) -> str | None:
    """What stands for a space: said by Metaspace, or by a normalizer that puts ``▁`` in its place."""
    for part in parts:
        if part["type"] == "Metaspace":
            return str(part.get("replacement", "▁"))
        if part["type"] == "Replace" and part.get("pattern") == {"String": " "} and part.get("content") == "▁":
            return "▁"
    return None


def _stands_alone(text: str) -> bool:
    """Whether a piece without a mark begins a word all the same: punctuation alone, or a script without spaces."""
    if not text:
        return False
    if any(low <= ord(text[0]) <= high for low, high in _UNSPACED):
        return True
    return all(unicodedata.category(character)[0] in "PS" for character in text)


def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes for the 256 bytes (GPT-2's encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _bytes_to_text(piece: str) -> str:
    """Text of a byte-level piece; empty if it holds parts of characters."""
    try:
        return bytes(_BYTES[character] for character in piece).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return ""
