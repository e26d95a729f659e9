"""Documents to token ids and sentence starts, without `transformers`.

A vocabulary whose pieces never cross white space gives a word the same ids wherever it stands. So most words are looked
up, and only those not seen before go through the tokenizer's library: several times faster, and the same ids.

Shape legend: D documents, T tokens, S sentences, W words, N bytes, V vocabulary.
"""

from __future__ import annotations

import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.sentences import full_width_tables, join_sorted, plain_spaces, sentence_starts, space_mask
from data_prep.tokenizer.special import SPECIAL_TOKENS
from data_prep.tokenizer.words import CAPACITY, PADDING, WordNumbers
from electra_ds.data.format import token_dtype
from electra_ds.errors import DataError, UserError

MODEL_FILE = "tokenizer.model"
"""A SentencePiece model that lies beside the Hugging Face files."""

_BATCH = 4096
"""Words at a time for a library: an encoding takes much more memory than its ids."""
_WORDS_A_CALL = 64
_KNOWN_TOKENS = 8_000_000
"""Ids of known words kept at most; beyond that, or where the table is half full, all are learned anew."""


_IDEOGRAPHS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df]")
"""Code points that BERT's normaliser puts spaces around (those that matter for speed)."""


@dataclass(frozen=True)
class Encoded:
    """Documents as ids, without special tokens.

    Attributes:
        tokens: [T] in the dtype of the vocabulary. token_counts: [D] uint32, 0 for a text without a token.
        sentences: [S] uint32, first token of each sentence, counted from the beginning of its document, strictly
            increasing from 0. sentence_counts: [D] uint32.
    """

    tokens: np.ndarray
    token_counts: np.ndarray
    sentences: np.ndarray
    sentence_counts: np.ndarray


class Encoder(ABC):
    """A tokenizer for whole documents."""

    vocab_size: int
    special_ids: dict[str, int]
    """``pad_id``, ``unk_id``, ``cls_id``, ``sep_id`` and ``mask_id``."""
    dtype: np.dtype[Any]
    vocabulary: list[str]
    """[V] tokens in the order of their ids."""

    @abstractmethod
    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Tokenize documents (UTF-8), without recognising special tokens in the text."""

    def _finish(self, tokens: np.ndarray, ends: np.ndarray, starts: np.ndarray) -> Encoded:
        """Add the sentence starts that only the tokens show (no white space after a Chinese full stop).

        Args:
            tokens: [T].
            ends: int64 [D], one past the last token of each document.
            starts: int64, sentence starts in tokens, ascending; perhaps repeated, or at the end of a document.
        """
        tables, before, after = self._tables, tokens[:-1], tokens[1:]
        if tables is not None:
            full_width = tables.ends[before] & ~tables.closes[after]
            half_width = tables.half_width_ends[before] & tables.ideographic[after]
            starts = join_sorted(starts, np.flatnonzero(full_width | half_width) + 1)
        counts = np.diff(ends, prepend=0)
        begins = (ends - counts)[counts > 0]
        starts = join_sorted(starts[starts < len(tokens)], begins)
        owner = np.searchsorted(ends, starts, "right")
        return Encoded(
            tokens,
            counts.astype(np.uint32),
            (starts - (ends - counts)[owner]).astype(np.uint32),
            np.bincount(owner, minlength=len(ends)).astype(np.uint32),
        )

    def _set_vocabulary(self, vocabulary: list[str]) -> None:
        self.vocabulary, self.vocab_size = vocabulary, len(vocabulary)
        self.dtype = token_dtype(self.vocab_size)
        tables = full_width_tables(vocabulary)
        self._tables = tables if tables.ends.any() or tables.ideographic.any() else None


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
            return BertEncoder(folder)
        return OffsetEncoder(folder)
    except UserError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception
        raise DataError(
            f"tokenizer {folder}: cannot be read ({error}); delete the folder and rerun prep to make it again"
        ) from error


class WordEncoder(Encoder):
    """For vocabularies whose pieces never cross white space: looks up words, one after another."""

    _other_spaces: bytes
    """Table for `bytes.translate`: what the library deletes, or takes for a space, though `SEPARATORS` lacks it."""

    def _forget(self) -> None:
        self._numbers = WordNumbers()
        self._ids = np.zeros(0, self.dtype)
        self._ends = np.zeros(1, np.int64)

    @abstractmethod
    def _encode_words(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of words by the library, one after another, and how many each has, int64."""

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Tokenize documents (see `Encoder`)."""
        parts = [plain_spaces(text) for text in texts]
        # White space alone lies between two documents, so no word and no sentence spans them.
        padded = (b"\n".join(parts) + b"\n" * PADDING).translate(self._other_spaces)
        data = np.frombuffer(padded, np.uint8, len(padded) - PADDING + 1)
        spaces = space_mask(data)
        borders = np.flatnonzero(spaces[1:] != spaces[:-1]) + 1
        if len(data) and not spaces[0]:
            borders = np.append(0, borders)
        begins, sizes = borders[::2], borders[1::2] - borders[::2]
        tokens, word_ends = self._look_up(padded, begins, sizes)
        before = np.append(0, word_ends)
        document_ends = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64)
        ends = before[np.searchsorted(begins, document_ends)]
        starts = before[np.searchsorted(begins, sentence_starts(data, spaces))]
        return self._finish(tokens, ends, starts)

    def _look_up(self, padded: bytes, begins: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of consecutive words, and one past the last token of each, int64 [W]."""
        numbers, fresh = self._numbers.number(padded, begins, sizes)
        self._learn(fresh)
        firsts, counts = self._ends[numbers], np.diff(self._ends)[numbers]
        ends = np.cumsum(counts)
        # A word's ids follow each other: from token to token it is a step of 1, at each word's first token a jump.
        steps = np.ones(int(ends[-1]) if len(ends) else 0, np.int64)
        present = np.flatnonzero(counts) if not counts.all() else slice(None)
        first, count = firsts[present], counts[present]
        last = first + count - 1
        if len(first):
            steps[(ends - counts)[present]] = first - np.append(0, last[:-1])
        tokens = self._ids[np.cumsum(steps)]
        if self._numbers.count > CAPACITY or len(self._ids) > _KNOWN_TOKENS:
            self._forget()
        return tokens, ends

    def _learn(self, fresh: list[bytes]) -> None:
        found = [self._encode_words(fresh[start : start + _BATCH]) for start in range(0, len(fresh), _BATCH)]
        if found:
            self._ids = np.concatenate([self._ids, *(ids.astype(self.dtype) for ids, _ in found)])
            counts = np.concatenate([counts for _, counts in found])
            self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(counts, dtype=np.int64)])


class _HuggingFaceEncoder(Encoder):
    """What the encoders on a tokenizer.json share."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # A text about tokenizers may spell [MASK]; it must not become a mask.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.special_ids = special_ids_of(folder, self._tokenizer.token_to_id)
        vocabulary = [""] * (max(self._tokenizer.get_vocab().values()) + 1)
        for token, id_ in self._tokenizer.get_vocab().items():
            vocabulary[id_] = token
        self._set_vocabulary(vocabulary)


class BertEncoder(_HuggingFaceEncoder, WordEncoder):
    """For BERT's tokenizers."""

    # BERT removes control characters; those that split() would take for a space become another one of them.
    _other_spaces = bytes.maketrans(b"\x0b\x0c", b"\x01\x01")

    def __init__(self, folder: Path) -> None:
        """`folder`: holds tokenizer.json."""
        super().__init__(folder)
        normalizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))["normalizer"] or {}
        model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
        self._cuts_ideographs = bool(normalizer.get("handle_chinese_chars"))
        self._longest = int(model.get("max_input_chars_per_word", 0)) if model.get("type") == "WordPiece" else 0
        self._forget()

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Tokenize documents (see `Encoder`)."""
        if self._cuts_ideographs:
            # BERT makes every ideograph a word: done here, a Chinese text is many known words and not one unknown.
            texts = [text if text.isascii() else _IDEOGRAPHS.sub(r" \g<0> ", text.decode()).encode() for text in texts]
        return super().encode(texts)

    def _encode_words(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        # A megabyte of letters and digits is unknown by its length alone; the library would still look at each.
        words = [b"" if len(word) > self._longest > 0 and word.isalnum() else word for word in words]
        # Many words a call, each told from the next by its place: a call for each would cost more than the words.
        ids, counts = [], []
        texts = [words[start : start + _WORDS_A_CALL] for start in range(0, len(words), _WORDS_A_CALL)]
        joined = [b" ".join(text).decode() for text in texts]
        for text, encoding in zip(texts, self._tokenizer.encode_batch(joined, add_special_tokens=False), strict=True):
            ids += encoding.ids
            sizes = np.array([len(word.decode()) + 1 for word in text])
            places = np.fromiter((begin for begin, _ in encoding.offsets), np.int64, len(encoding.ids))
            owners = np.searchsorted(np.cumsum(sizes), places, "right")
            counts.append(np.bincount(owners, minlength=len(text)))
        tokens, sizes = np.array(ids, np.int64), np.concatenate(counts)
        unknown = np.array([not word for word in words])
        tokens = np.insert(tokens, np.cumsum(sizes)[unknown], self.special_ids["unk_id"])
        return tokens, sizes + unknown


class SentencePieceEncoder(WordEncoder):
    """For the SentencePiece models that this package exports, with the library itself."""

    # SentencePiece's rules take a form feed for a space and delete a vertical tab.
    _other_spaces = bytes.maketrans(b"\x0b\x0c", b"\x01 ")

    def __init__(self, folder: Path) -> None:
        """`folder`: holds `MODEL_FILE`."""
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        self._form = settings["unicode_form"]
        size = len(json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
        pieces = [self._model.id_to_piece(id_) for id_ in range(self._model.vocab_size())]
        self.special_ids = special_ids_of(folder, {piece: id_ for id_, piece in enumerate(pieces)}.get)
        self._set_vocabulary(pieces + [""] * (size - len(pieces)))
        self._forget()

    def _encode_words(self, words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        texts = [
            word if word.isascii() else unicodedata.normalize(self._form, word.decode()).encode() for word in words
        ]
        ids = self._model.encode(texts, num_threads=1)
        counts = np.array([len(found) for found in ids], np.int64)
        return np.fromiter(chain.from_iterable(ids), np.int64, int(counts.sum())), counts


class OffsetEncoder(_HuggingFaceEncoder):
    """For any other tokenizer: encodes whole documents and finds sentence starts by character offsets (slower)."""

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Tokenize documents (see `Encoder`)."""
        tokens, counts, sentences, position = [], [], [], 0
        for text in texts:
            encoding = self._tokenizer.encode(text.decode(), add_special_tokens=False)
            tokens.append(np.array(encoding.ids, self.dtype))
            ends = np.array([end for _, end in encoding.offsets], np.int64)
            # A sentence begins with the first token past what stands before it: a token may hold the space between.
            cuts = _character_positions(text)
            sentences.append(np.searchsorted(ends, cuts, side="right") + position)
            counts.append(len(ends))
            position += len(ends)
        flat = np.concatenate(tokens) if tokens else np.zeros(0, self.dtype)
        starts = np.concatenate(sentences) if sentences else np.zeros(0, np.int64)
        return self._finish(flat, np.cumsum(counts, dtype=np.int64), np.sort(starts))


def _character_positions(text: bytes) -> np.ndarray:
    """Where the white space before each sentence begins, counted in characters, int64."""
    # Another length would shift the offsets: wide spaces are left to the tokenizer here.
    data = np.frombuffer(text, np.uint8)
    spaces = space_mask(data)
    starts = sentence_starts(data, spaces)
    words_end = np.flatnonzero(~spaces[:-1] & spaces[1:]) + 1
    before = np.searchsorted(words_end, starts, "right") - 1
    cuts = np.where(before >= 0, words_end[np.maximum(before, 0)] if len(words_end) else 0, 0)
    return (
        cuts
        if len(text) == 0 or text.isascii()
        else np.cumsum((data & 0xC0) != 0x80)[np.maximum(cuts - 1, 0)] * (cuts > 0)
    )


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
