"""Reading a Hugging Face model that someone else made: config, tensors one at a time, tokens. Nothing in it is run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_ds.checkpoint import load_tensors
from electra_ds.errors import DataError, UserError
from electra_ds.export.huggingface import INDEX_NAME, WEIGHTS_NAME
from electra_ds.export.networks import EXPORT_NAME
from electra_ds.export.verify import weight_files

HUB = "hf:"
"""Before a name on the hub; a name that is no folder here is looked for there without it, too."""
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_TOKENIZER = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_SMALL = ("*.json", "*.txt", "*.model")
FULL_SIZE = ("discriminator", "encoder")
"""Folders of convert that have a full-size network."""
ROLES = ("pad", "unk", "cls", "sep", "mask")


def find_pair(start: str, generator: str | None, wanted: str = "discriminator") -> tuple[Path, Path | None]:
    """Local folders of a full-size network and, if there is one, its generator.

    Args:
        start: a folder, a name on the hub, or a folder that convert wrote, which has both.
        generator: folder or name of another generator.
        wanted: the full-size network that is taken from a folder of convert, if it has several.

    Raises:
        UserError: no such folder, and nothing of that name can be fetched from the hub.
    """
    folder = find_model(start, "init.from")
    beside = None
    if (folder / EXPORT_NAME).is_file() and not (folder / "config.json").is_file():
        beside = folder / "generator" if (folder / "generator").is_dir() else None
        names = dict.fromkeys((wanted, *FULL_SIZE))
        found = next((folder / name for name in names if (folder / name).is_dir()), None)
        if found is None:
            raise UserError(
                f"init.from: {start} was written by convert, but has no {'/ or '.join(names)}/; name another"
            )
        folder = found
    return folder, find_model(generator, "init.generator") if generator is not None else beside


def find_model(name: str, option: str) -> Path:
    """Local folder of a model, fetched from the hub if it is none here.

    Raises:
        UserError: not found.
    """
    if os.path.isdir(name):
        return Path(name)
    on_hub = name.removeprefix(HUB)
    if not _NAME.fullmatch(on_hub):
        raise UserError(f"{option}: no folder {name}; expected a model folder, or a name on the hub such as owner/name")
    try:
        return _fetch(on_hub)
    except Exception as error:  # of the network, the hub or its library, in many classes
        first = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(
            f"{option}: there is no folder {name}, and the hub's {on_hub} cannot be fetched ({type(error).__name__}: "
            f"{first}); name a local folder, or fetch it where there is a network ('hf download {on_hub}')"
        ) from error


def _fetch(name: str) -> Path:
    """Bring config, tokenizer and weights into the hub's cache; pickled weights only if there are no others."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=[*_SMALL, "model*.safetensors"]))
    if not any(folder.glob("model*.safetensors")):
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL, "pytorch_model*.bin"]))
    return folder


class ForeignModel:
    """A model folder: safetensors, or pickled tensors where there are none.

    Attributes:
        config: content of config.json.
        shapes: name of each tensor to its shape.
    """

    def __init__(self, folder: Path, option: str) -> None:
        """Open it.

        Args:
            folder: of the model.
            option: that named it, for errors.

        Raises:
            DataError: no model, damaged, or with more than tensors in its weights.
        """
        self.folder = folder
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            if not isinstance(config, dict):
                raise ValueError("no object in it")
        except (OSError, ValueError) as error:
            inner = sorted(str(path.parent) for path in folder.glob("*/config.json"))
            hint = f"; did you mean {' or '.join(inner)}?" if inner else ""
            raise DataError(f"{option}: {folder} is no model folder, config.json: {error}{hint}") from error
        self.config: dict[str, Any] = config
        self._read: dict[str, Callable[[], Tensor]] = {}
        self.shapes: dict[str, torch.Size] = {}
        if (folder / WEIGHTS_NAME).is_file() or (folder / INDEX_NAME).is_file():
            for path in weight_files(folder):
                self._open_safetensors(path)
        elif (folder / _PICKLED).is_file() or (folder / _PICKLED_INDEX).is_file():
            for path in self._pickled_files():
                for key, value in load_tensors(path).items():
                    self._add(key, value.shape, partial(torch.as_tensor, value))
        else:
            others = sorted(path.name for path in folder.glob("*") if path.suffix in (".h5", ".msgpack", ".ckpt"))
            found = f" (only {', '.join(others)})" if others else ""
            raise DataError(f"{option}: {folder} has neither {WEIGHTS_NAME} nor {_PICKLED}{found}")

    def tensor(self, key: str) -> Tensor:
        """A tensor as float32 [its shape], on the CPU."""
        return self._read[key]().to(torch.float32)

    def vocabulary(self) -> tuple[dict[str, int], dict[str, int]] | None:
        """Ids by spelling, and by role of the special tokens; None if no tokenizer lies beside the weights."""
        return read_vocabulary(self.folder)

    def _open_safetensors(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file = safe_open(str(path), framework="pt").__enter__()
            for key in list(file.keys()):
                self._add(key, torch.Size(file.get_slice(key).get_shape()), partial(file.get_tensor, key))
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error

    def _pickled_files(self) -> Iterable[Path]:
        if (self.folder / _PICKLED).is_file():
            return [self.folder / _PICKLED]
        try:
            names = set(json.loads((self.folder / _PICKLED_INDEX).read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self.folder / _PICKLED_INDEX}: cannot be read ({error!r})") from error
        missing = [name for name in names if "/" in name or not (self.folder / name).is_file()]
        if missing:
            raise DataError(f"{self.folder}: {missing[0]} is missing")
        return [self.folder / name for name in sorted(names)]

    def _add(self, key: str, shape: torch.Size, read: Callable[[], Tensor]) -> None:
        if key.endswith("position_ids"):  # a buffer that old releases of transformers stored: 0, 1, 2, ...
            return
        self._read[key], self.shapes[key] = read, shape


def read_vocabulary(folder: Path) -> tuple[dict[str, int], dict[str, int]] | None:
    """Ids of a folder's tokenizer by spelling, and by role (`ROLES`) of the special tokens; None if there is none.

    Raises:
        DataError: there is one, but it cannot be loaded.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
        return dict(tokenizer.get_vocab()), {role: int(id_) for role, id_ in roles.items() if id_ is not None}
    except Exception as error:  # which kind depends on the tokenizer's files
        first = (str(error).strip().splitlines() or [repr(error)])[0]
        raise DataError(f"{folder}: its tokenizer cannot be loaded ({first})") from error
