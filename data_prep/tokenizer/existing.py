"""Taking a tokenizer that exists: a Hugging Face folder, a hub name, or a SentencePiece .model file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.config import TokenizerConfig
from data_prep.tokenizer import sentencepiece
from data_prep.tokenizer.encoder import missing_special
from data_prep.tokenizer.special import SPECIAL_TOKENS
from electra_ds.errors import UserError


def make(_: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """Copy the tokenizer of ``tokenizer.path`` into `folder` (see `make_tokenizer`)."""
    name = str(config.path)
    if name.endswith(".model"):
        sentencepiece.export(Path(name), folder)
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
