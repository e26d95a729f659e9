"""Taking a tokenizer that exists: a Hugging Face folder, a hub name, or a SentencePiece .model file."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.config import TokenizerConfig
from data_prep.tokenizer import sentencepiece
from data_prep.tokenizer.encoder import load_encoder, missing_special
from data_prep.tokenizer.special import SPECIAL_TOKENS
from electra_ds.errors import UserError

MAX_BYTES = 200_000_000
"""Largest folder that is copied as a whole."""


def make(_: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """Copy the tokenizer of ``tokenizer.path`` into `folder` (see `make_tokenizer`)."""
    name = str(config.path)
    if name.endswith(".model"):
        sentencepiece.export(Path(name), folder)
        return
    if _is_complete(Path(name)):
        for path in sorted(Path(name).iterdir()):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        return
    tokenizer = _load(name)
    vocabulary = tokenizer.get_vocab()
    for role in SPECIAL_TOKENS:
        token = getattr(tokenizer, f"{role}_token", None)
        if token is None or token not in vocabulary:
            raise UserError(missing_special(name, role, token))
    tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"tokenizer.path: {name} has no fast form (tokenizer.json); save it with a current release of transformers"
        )


def _is_complete(folder: Path) -> bool:
    """Tell whether a local folder can be taken as it is: a set's own tokenizer then keeps its fingerprint."""
    if not ((folder / "tokenizer.json").is_file() and (folder / "tokenizer_config.json").is_file()):
        return False
    if sum(path.stat().st_size for path in folder.iterdir()) > MAX_BYTES:
        return False  # a model lies there, too
    try:
        load_encoder(folder)
    except UserError:
        return False
    return True


def _load(name: str) -> Any:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise UserError(
            f"tokenizer.path: '{name}' cannot be loaded ({' '.join(str(error).split())}); expected a folder that "
            "save_pretrained wrote, a .model file, or a name on the hub (which this machine must reach or have cached)"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
