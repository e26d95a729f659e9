"""Documents to token ids and sentence starts, without `transformers`.

Shape legend: T tokens, S sentences, V vocabulary.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.sentences import full_width_tables, sentence_spans
from data_prep.tokenizer.special import SPECIAL_TOKENS
from electra_ds.data.format import token_dtype
from electra_ds.errors import DataError, UserError

MODEL_FILE = "tokenizer.model"
"""A SentencePiece model that lies beside the Hugging Face files."""

_BATCH = 512
"""Sentences per call: an encoding takes much more memory than its ids."""


class Encoder(Protocol):
    """A tokenizer for whole documents."""

    vocab_size: int
    special_ids: dict[str, int]
    """``pad_id``, ``unk_id``, ``cls_id``, ``sep_id`` and ``mask_id``."""

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokenize documents, without adding special tokens and without recognising them in the text.

        Returns:
            Per document: tokens [T] in the dtype of the vocabulary, and sentence starts [S] uint32, strictly
            increasing from 0. Both are empty for a text without a token.
        """


def load_encoder(folder: Path) -> Encoder:
    """Open a tokenizer folder.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        config = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        if (folder / MODEL_FILE).is_file() and settings.get("exported_by") == "electra_ds":
            return SentencePieceEncoder(folder)
        if (config.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer":
            return SentenceEncoder(folder)
        return OffsetEncoder(folder)
    except UserError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception
        raise DataError(
            f"tokenizer {folder}: cannot be read ({error}); delete the folder and rerun prep to make it again"
        ) from error


class _FullWidth:
    """Adds the sentence starts that only the tokens show (no white space after a Chinese full stop)."""

    def __init__(self, vocabulary: list[str]) -> None:
        self._tables = full_width_tables(vocabulary)

    def merge(self, tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
        tables, before, after = self._tables, tokens[:-1], tokens[1:]
        full_width = tables.ends[before] & ~tables.closes[after]
        half_width = tables.half_width_ends[before] & tables.ideographic[after]
        found = np.flatnonzero(full_width | half_width) + 1
        return np.union1d(starts, found).astype(np.uint32) if len(found) else starts.astype(np.uint32)


class _HuggingFaceEncoder:
    """What the two encoders on a tokenizer.json share."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # A text about tokenizers may spell [MASK]; it must not become a mask.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1
        self.special_ids = special_ids_of(folder, self._tokenizer.token_to_id)
        self._dtype = token_dtype(self.vocab_size)
        vocabulary = [""] * self.vocab_size
        for token, id_ in self._tokenizer.get_vocab().items():
            vocabulary[id_] = token
        self._full_width = _FullWidth(vocabulary)


class SentenceEncoder(_HuggingFaceEncoder):
    """For tokenizers that never join characters across white space (BERT's): encodes sentence by sentence."""

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokenize documents (see `Encoder`)."""
        pieces = [[text[start:end] for start, end in sentence_spans(text)] for text in texts]
        flat = list(chain.from_iterable(pieces))
        ids: list[list[int]] = []
        for start in range(0, len(flat), _BATCH):
            batch = self._tokenizer.encode_batch_fast(flat[start : start + _BATCH], add_special_tokens=False)
            ids += [encoding.ids for encoding in batch]
        return _by_document(pieces, ids, self._dtype, self._full_width)


class OffsetEncoder(_HuggingFaceEncoder):
    """For any other tokenizer: encodes whole documents and finds sentence starts by character offsets (slower)."""

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokenize documents (see `Encoder`)."""
        result = []
        for text in texts:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            tokens = np.array(encoding.ids, self._dtype)
            if not len(tokens):
                result.append((tokens, np.zeros(0, np.uint32)))
                continue
            ends = np.array([end for _, end in encoding.offsets], np.int64)
            # A sentence begins with the first token past the sentence before it: a token may hold the space between.
            cuts = [end for _, end in sentence_spans(text)][:-1]
            starts = np.unique(np.append(np.searchsorted(ends, cuts, side="right"), 0))
            result.append((tokens, self._full_width.merge(tokens, starts[starts < len(tokens)])))
        return result


class SentencePieceEncoder:
    """For the SentencePiece models that this package exports: sentence by sentence with the library itself."""

    def __init__(self, folder: Path) -> None:
        """`folder`: holds `MODEL_FILE`."""
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        self._form = settings["unicode_form"]
        self.vocab_size = len(json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
        pieces = [self._model.id_to_piece(id_) for id_ in range(self._model.vocab_size())]
        self.special_ids = special_ids_of(folder, {piece: id_ for id_, piece in enumerate(pieces)}.get)
        self._dtype = token_dtype(self.vocab_size)
        self._full_width = _FullWidth(pieces)

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokenize documents (see `Encoder`)."""
        pieces = [[text[start:end] for start, end in sentence_spans(text)] for text in texts]
        flat = list(chain.from_iterable(pieces))
        ids: list[list[int]] = []
        for start in range(0, len(flat), _BATCH):
            batch = [unicodedata.normalize(self._form, piece) for piece in flat[start : start + _BATCH]]
            ids += self._model.encode(batch, num_threads=1)
        return _by_document(pieces, ids, self._dtype, self._full_width)


def special_ids_of(folder: Path, find: Any) -> dict[str, int]:
    """Look up the special tokens that tokenizer_config.json names.

    Args:
        folder: the tokenizer.
        find: token: id, or None.

    Raises:
        UserError: one is not named or not in the vocabulary.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    ids = {}
    for role in SPECIAL_TOKENS:
        token = settings.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        id_ = find(token) if isinstance(token, str) else None
        if id_ is None:
            raise UserError(missing_special(str(folder), role, token))
        ids[f"{role}_id"] = id_
    return ids


def missing_special(name: str, role: str, token: str | None) -> str:
    """Say that an ELECTRA tokenizer needs all five special tokens."""
    found = f"'{token}' is not in its vocabulary" if token else "it names none"
    return (
        f"tokenizer.path: {name} has no {role} token ({found}); ELECTRA needs cls, sep, mask, pad and unk. "
        f"Add it with tokenizer.add_special_tokens({{'{role}_token': ...}}) and save it, or train one"
    )


def _by_document(
    pieces: list[list[str]], ids: list[list[int]], dtype: Any, full_width: _FullWidth
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Join the ids of each document's sentences; a sentence without a token leaves no start."""
    result, position = [], 0
    for sentences in pieces:
        mine = [found for found in ids[position : position + len(sentences)] if found]
        position += len(sentences)
        lengths = np.array([len(found) for found in mine], np.int64)
        tokens = np.fromiter(chain.from_iterable(mine), dtype, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        result.append((tokens, full_width.merge(tokens, starts)))
    return result
