"""Loading an encoder with a new head, and refusing what does not fit before it costs time."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError, UserError
from electra_ds.finetune.tables import HUB

SPARE_ROWS = 1024
"""How many embedding rows may have no token: tables are padded for speed, by less than this."""


def check_model_folder(model: str) -> None:
    """Refuse what is plainly no model, before anything slow is imported.

    Raises:
        DataError: no such folder, or without a readable config.json.
    """
    if model.startswith(HUB):
        return
    folder = Path(model)
    if not folder.is_dir():
        raise DataError(f"model: no folder {model}; name one that 'electra-ds convert' made, or hf:NAME for the hub")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        inner = sorted(str(path.parent) for path in folder.glob("*/config.json"))
        hint = f"; did you mean {' or '.join(inner)}?" if inner else ""
        raise DataError(f"model: {model} is not a model folder, it has no config.json{hint}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"model: {folder / 'config.json'} cannot be read ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise DataError(f"model: {folder / 'config.json'} names no model_type, so it is no Hugging Face model")


def load_tokenizer(model: str) -> Any:
    """Load the tokenizer that lies beside the weights.

    Raises:
        DataError: none, or one without padding.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.removeprefix(HUB))
    except Exception as error:  # which kind depends on the tokenizer's files
        raise DataError(f"model: no tokenizer could be loaded from {model} ({_first_line(error)})") from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):  # what transformers makes up where there is none
        raise DataError(f"model: no tokenizer lies in {model}; copy tokenizer.json or vocab.txt beside the weights")
    if tokenizer.pad_token_id is None:
        raise DataError(f"model: the tokenizer of {model} has no padding token; fine-tuning pads each batch")
    return tokenizer


def load_config(model: str, dropout: float, head: dict[str, Any]) -> Any:
    """Load a model's config with our dropout and the task's head in it."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model.removeprefix(HUB))
    except Exception as error:
        raise DataError(f"model: {model} has no config that transformers knows ({_first_line(error)})") from error
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    config.num_labels = head["num_labels"]
    for name, value in head.items():
        setattr(config, name, value)
    return config


def check_fit(model: str, config: Any, tokenizer: Any, max_length: int) -> None:
    """Refuse a tokenizer that does not belong to the weights, and inputs longer than the position table.

    Raises:
        UserError: which it is, with both numbers.
    """
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > config.vocab_size or config.vocab_size - tokens >= SPARE_ROWS:
        raise DataError(
            f"model: the tokenizer of {model} has {tokens} tokens, but the network has embeddings for "
            f"{config.vocab_size}: they do not belong together; put the tokenizer that it was trained with beside it"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise UserError(f"max_length: {max_length}, but {model} has {positions} positions; choose at most that")


def check_precision(precision: str) -> None:
    """Refuse arithmetic that this machine's device does not have.

    Raises:
        UserError: fp16 without a GPU, bf16 on a GPU that lacks it.
    """
    import torch

    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision: fp16 needs a GPU, and none is found; choose bf16 or float32")
    if (
        precision == "bf16"
        and torch.cuda.is_available()
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(f"precision: {torch.cuda.get_device_name()} has no bf16; choose fp16 or float32")


def build_model(auto_model: str, model: str, config: Any, from_scratch: bool) -> Any:
    """Return the network with the task's head, on the CPU in float32.

    Args:
        auto_model: class of transformers, from the task.
        model: folder, or ``hf:NAME``.
        config: from `load_config`.
        from_scratch: random weights; else the encoder's weights, only the head being random.

    Raises:
        DataError: weights missing, cut short, of another shape, or without the whole encoder.
    """
    import torch
    import transformers

    factory = getattr(transformers, auto_model)
    if from_scratch:
        return factory.from_config(config, dtype=torch.float32)
    try:
        network, loading = factory.from_pretrained(
            model.removeprefix(HUB),
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the head of another task; a mismatch inside the encoder is refused below
        )
    except Exception as error:
        raise DataError(f"model: the weights of {model} cannot be loaded ({_first_line(error)})") from error
    inside = network.base_model_prefix + "."
    mismatched = {entry[0] for entry in loading["mismatched_keys"]}
    problems = sorted(name for name in {*loading["missing_keys"], *mismatched} if name.startswith(inside))
    if problems:
        raise DataError(
            f"model: {model} has no fitting weights for {len(problems)} tensors of the encoder "
            f"({', '.join(problems[:3])}{', ...' if len(problems) > 3 else ''}); its config.json is of another model"
        )
    return network


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what transformers says at every load and step; errors still come through."""
    import transformers

    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # DeepSpeed, which accelerate imports where it is installed, sets its logger's level on import; a filter stays.
    loggers = [logging.getLogger(name) for name in ("accelerate", "DeepSpeed")]
    for logger in loggers:
        logger.addFilter(_errors_only)
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
        for logger in loggers:
            logger.removeFilter(_errors_only)


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
