"""Vocabularies: train one or take an existing one, export it for Hugging Face, and encode documents with it.

`make_tokenizer` writes a folder that stock `transformers.AutoTokenizer` loads; `load_encoder` opens that folder
for tokenizing without importing `transformers`. Kinds are registered in `MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from data_prep.config import TokenizerConfig
from data_prep.tokenizer import existing, sentencepiece, wordpiece
from data_prep.tokenizer.encoder import Encoder, load_encoder
from electra_ds.data.format import TokenizerInfo
from electra_ds.data.format.manifest import tokenizer_fingerprint

__all__ = ["Encoder", "load_encoder", "make_tokenizer", "needs_sample", "tokenizer_info"]

MAKERS: dict[str, Callable[[Iterable[str], TokenizerConfig, Path], None]] = {
    "wordpiece": wordpiece.make,
    "unigram": sentencepiece.make,
    "bpe": sentencepiece.make,
    "existing": existing.make,
}
"""Type: writes a tokenizer made from sample texts into an empty folder."""


def needs_sample(config: TokenizerConfig) -> bool:
    """Tell whether text must be read before the tokenizer is there."""
    return config.type != "existing"


def make_tokenizer(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """Train or copy a tokenizer into `folder`, which exists and is empty.

    The same texts and config give the same bytes, whatever the number of CPU cores.

    Raises:
        UserError: the text does not support the vocabulary, or the existing tokenizer lacks a special token.
    """
    MAKERS[config.type](texts, config, folder)


def tokenizer_info(folder: Path, type_: str) -> TokenizerInfo:
    """Describe a tokenizer folder for the manifest."""
    encoder = load_encoder(folder)
    return TokenizerInfo(type_, tokenizer_fingerprint(folder), encoder.vocab_size, **encoder.special_ids)
