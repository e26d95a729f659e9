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


POSITIONS_AFTER_PADDING = frozenset({
    "camembert", "data2vec-text", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mluke", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
"""Kinds of models (``model_type``) whose first position is the padding's id + 1."""


def check_model_folder(model: str) -> None:
    """Refuse what is plainly no model, before anything slow is imported.

    Raises:
        DataError: no such folder, without a readable config.json, or with a model's own code.
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
    _refuse_named_code(folder)


def refuse_code(model: str) -> None:
    """Refuse a model whose files would run code of their own; call it before transformers reads weights.

    Two things can: code that a config names by ``auto_map``, and a pickle in place of tensors. Pickled files are looked
    at only where there are no safetensors, which transformers prefers. Of the hub's models nothing is known before
    transformers fetches them: there its own refusals serve (``trust_remote_code=False``, weights-only loading), and
    `load_config` looks for ``auto_map``.

    Args:
        model: folder, or ``hf:NAME``.

    Raises:
        DataError: the file, and what it would run.
    """
    if model.startswith(HUB):
        return
    folder = Path(model)
    _refuse_named_code(folder)
    if any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        return
    from electra_ds.checkpoint import load_tensors

    for path in sorted({*folder.glob("pytorch_model*.bin"), *_indexed(folder)}):
        load_tensors(path)


def _indexed(folder: Path) -> list[Path]:
    """Files that the index of pickled weights names; none where it is missing or broken, which loading then tells."""
    try:
        names = json.loads((folder / "pytorch_model.bin.index.json").read_text("utf-8"))["weight_map"].values()
        return [folder / name for name in set(names) if (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _refuse_named_code(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        try:
            named = json.loads((folder / name).read_text("utf-8")).get("auto_map")
        except (OSError, ValueError, AttributeError):
            continue  # missing or broken: whoever needs it says so
        if named:
            raise _own_code(str(folder / name), named)


def _own_code(source: str, named: Any) -> DataError:
    classes = ", ".join(sorted(map(str, named.values()))) if isinstance(named, dict) else str(named)
    return DataError(
        f"model: {source} names code of the model's own (auto_map: {classes:.200}), which is never run here; choose a "
        "model of a kind that transformers itself has, or take auto_map out of the file if its model_type is one"
    )


def load_tokenizer(model: str) -> Any:
    """Load the tokenizer that lies beside the weights.

    Raises:
        DataError: none, or one without padding.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.removeprefix(HUB), trust_remote_code=False)
    except Exception as error:  # which kind depends on the tokenizer's files
        raise DataError(f"model: no tokenizer could be loaded from {model} ({first_line(error)})") from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):  # what transformers makes up where there is none
        raise DataError(f"model: no tokenizer lies in {model}; copy tokenizer.json or vocab.txt beside the weights")
    if tokenizer.pad_token_id is None:
        raise DataError(f"model: the tokenizer of {model} has no padding token; batches are padded")
    return tokenizer


def require_offsets(tokenizer: Any, model: str) -> None:
    """Refuse a tokenizer that cannot say where in the text its tokens stand.

    Raises:
        DataError: it is a slow one.
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"model: the tokenizer of {model} ({type(tokenizer).__name__}) does not say where in a text its tokens "
            "stand, which is needed here; put a tokenizer.json beside the weights (the fast "
            "tokenizer's save_pretrained writes it)"
        )


def load_config(model: str, dropout: float, head: dict[str, Any]) -> Any:
    """Load a model's config with our dropout and the task's head in it.

    Raises:
        DataError: none, of a kind that transformers does not have, or with code of its own.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model.removeprefix(HUB), trust_remote_code=False)
    except Exception as error:
        raise DataError(f"model: {model} has no config that transformers knows ({first_line(error)})") from error
    if named := getattr(config, "auto_map", None):  # of a model of the hub; a folder was refused before
        raise _own_code(f"the config of {model}", named)
    for name in dropout_settings(config):
        setattr(config, name, dropout)
    config.num_labels = head["num_labels"]  # first: it resets the names of labels
    for name, value in head.items():
        setattr(config, name, value)
    return config


def dropout_settings(config: Any) -> list[str]:
    """Names under which a config keeps dropout probabilities, of the encoder and of every head.

    Each kind of encoder has its own (hidden_dropout_prob, attention_dropout, summary_last_dropout, qa_dropout, ...);
    None is a probability too: that of the encoder. Switches are none.
    """
    return [
        name
        for name, value in config.to_dict().items()
        if "dropout" in name and (value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)))
    ]


def usable_positions(config: Any) -> int | None:
    """Longest input in tokens that a network has positions for; None: any.

    RoBERTa and its kin count positions from the padding's id + 1, so that of a table of 514 rows 512 serve.
    """
    rows: int | None = getattr(config, "max_position_embeddings", None)
    if rows is None or rows <= 0:  # XLNet says -1
        return None
    if config.model_type not in POSITIONS_AFTER_PADDING or config.pad_token_id is None:
        return rows
    return rows - (int(config.pad_token_id) + 1)


def check_fit(model: str, config: Any, tokenizer: Any, max_length: int | None) -> None:
    """Refuse a tokenizer that does not belong to the weights, and inputs longer than the position table.

    Raises:
        UserError: which it is, with both numbers.
    """
    check_vocabulary(model, tokenizer, config.vocab_size)
    positions = usable_positions(config)
    if positions is not None and max_length is not None and max_length > positions:
        raise UserError(f"max_length: {max_length}, but {model} has {positions} positions; choose at most that")


def check_vocabulary(model: str, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer that does not belong to weights with `rows` embeddings.

    Raises:
        DataError: with both numbers.
    """
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > rows or rows - tokens >= SPARE_ROWS:
        raise DataError(
            f"model: the tokenizer of {model} has {tokens} tokens, but the network has embeddings for {rows}: they do "
            "not belong together; put the tokenizer that it was trained with beside it"
        )


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
        auto_model: class of transformers, or of `heads`, with its module, from the task.
        model: folder, or ``hf:NAME``.
        config: from `load_config`.
        from_scratch: random weights; else the encoder's weights, only the head being random.

    Raises:
        DataError: weights missing, cut short, of another shape, without the whole encoder, or with code in them.
    """
    import torch
    import transformers

    module, _, name = auto_model.rpartition(".")
    if module in ("", "transformers"):
        factory = getattr(transformers, name)
        if from_scratch:
            return factory.from_config(config, dtype=torch.float32, trust_remote_code=False)
    else:
        from electra_ds.finetune import heads

        if config.model_type != "electra":
            raise UserError(f"head: original is that of ELECTRA, but {model} is of the kind {config.model_type}")
        factory = getattr(heads, name)
        if from_scratch:
            return factory(config).float()
    refuse_code(model)
    try:
        network, loading = factory.from_pretrained(
            model.removeprefix(HUB),
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # the head of another task; a mismatch inside the encoder is refused below
        )
    except Exception as error:
        raise DataError(f"model: the weights of {model} cannot be loaded ({first_line(error)})") from error
    inside = network.base_model_prefix + "."
    mismatched = {entry[0] for entry in loading["mismatched_keys"]}
    problems = sorted(name for name in {*loading["missing_keys"], *mismatched} if name.startswith(inside))
    if problems:
        raise DataError(
            f"model: {model} has no fitting weights for {len(problems)} tensors of the encoder "
            f"({', '.join(problems[:3])}{', ...' if len(problems) > 3 else ''}); its config.json is of another model"
        )
    return network


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
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
