"""The special tokens, and the part of a Hugging Face tokenizer folder that names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from electra_ds.files import atomic_write, write_json

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""Role: spelling, in the order of their ids in a trained vocabulary (0 to 4)."""

MODEL_MAX_LENGTH = 512
"""Rows of the position table."""


def added_tokens(ids: dict[str, int], spelling: dict[str, str]) -> list[dict[str, Any]]:
    """Return the ``added_tokens`` entry of a tokenizer.json: [PAD] and the others stay whole in raw text."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return sorted(
        ({"id": ids[role], "content": spelling[role], **flags} for role in ids), key=lambda entry: entry["id"]
    )


def template(ids: dict[str, int], spelling: dict[str, str]) -> Any:
    """Return the post-processor: ``[CLS] a [SEP]`` with type 0, ``b [SEP]`` with type 1."""
    from tokenizers.processors import TemplateProcessing

    cls, sep = spelling["cls"], spelling["sep"]
    return TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, ids["cls"]), (sep, ids["sep"])],
    )


def write_folder(
    folder: Path, tokenizer: Any, ids: dict[str, int], spelling: dict[str, str], settings: dict[str, Any]
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        folder: existing folder.
        tokenizer: a `tokenizers.Tokenizer` without added tokens.
        ids: role: id.
        spelling: role: token.
        settings: further entries of tokenizer_config.json, the class among them.
    """
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = added_tokens(ids, spelling)
    with atomic_write(folder / "tokenizer.json", "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
    write_json(
        folder / "tokenizer_config.json",
        {
            "model_max_length": MODEL_MAX_LENGTH,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **{f"{role}_token": token for role, token in spelling.items()},
            **settings,
        },
    )
