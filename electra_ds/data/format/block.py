"""A block: some hundred thousand tokens of many documents, one sample of a WebDataset tar.

Shape legend: T tokens, D documents, S sentences of the block.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from electra_ds.errors import DataError

TOKENS, DOCUMENTS, SENTENCES, METADATA = "tokens.npy", "docs.npy", "sentences.npy", "json"
MEMBERS = (TOKENS, DOCUMENTS, SENTENCES, METADATA)
"""Endings of a block's tar members, in the order in which they are written."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Smallest little-endian dtype that holds every id: uint16 up to 65,536 entries, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


_NPY_HEADER = re.compile(rb"\{'descr': *'(<u[24])', *'fortran_order': *False, *'shape': *\((\d{1,12}), *\), *\} *\n")


@dataclass(frozen=True)
class Block:
    """Tokens of consecutive documents, without special tokens.

    Attributes:
        tokens: [T] uint16 or uint32, token ids.
        documents: [D] uint32, first token of each document; strictly increasing from 0.
        sentences: [S] uint32, first token of each sentence or line; strictly increasing from 0,
            and every document start is also a sentence start.
        metadata: JSON object: ``labels`` lists [source, language, file], ``runs`` lists [first document, number in
            labels] for runs of documents alike, ``continues`` tells that the first document began in the block before.
    """

    tokens: np.ndarray
    documents: np.ndarray
    sentences: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("documents", "sentences"):
            starts = getattr(self, name)
            if starts.ndim != 1 or len(starts) == 0 or starts[0] != 0:
                raise DataError(f"block: {name} must be a non-empty 1-D array that begins with 0")
            if np.any(np.diff(starts.astype(np.int64)) <= 0) or int(starts[-1]) >= len(self.tokens):
                raise DataError(f"block: {name} must increase strictly and end before {len(self.tokens)} tokens")

    @property
    def document_ends(self) -> np.ndarray:
        """[D] int64, one past the last token of each document."""
        return np.append(self.documents[1:], len(self.tokens)).astype(np.int64)

    def label(self, document: int) -> list[str]:
        """Source, language and file of a document; empty strings where unknown."""
        labels, runs = self.metadata.get("labels", []), self.metadata.get("runs", [])
        number = next((number for first, number in reversed(runs) if first <= document), None)
        return labels[number] if number is not None else ["", "", ""]


def encode_block(key: str, block: Block) -> bytes:
    """Serialise a block as four tar members (USTAR, no time stamp), padded to 512 bytes each.

    The result depends on nothing but the arguments; concatenating such pieces and two zero records
    gives a tar that any reader takes.
    """
    payloads = (
        _npy(block.tokens),
        _npy(block.documents.astype("<u4")),
        _npy(block.sentences.astype("<u4")),
        json.dumps(block.metadata, sort_keys=True, ensure_ascii=False).encode(),
    )
    pieces = []
    for ending, payload in zip(MEMBERS, payloads, strict=True):
        info = tarfile.TarInfo(f"{key}.{ending}")
        info.size = len(payload)
        pieces += [info.tobuf(format=tarfile.USTAR_FORMAT), payload, bytes(-len(payload) % tarfile.BLOCKSIZE)]
    return b"".join(pieces)


def decode_block(data: bytes | memoryview, where: str = "block") -> Block:
    """Read what `encode_block` wrote.

    Args:
        data: the bytes from the block's offset on, as long as its index record says.
        where: named in errors, for example ``train-000000.tar block 3``.

    Raises:
        DataError: the bytes are not a block. Nothing is unpickled.
    """
    view = memoryview(data)
    arrays: dict[str, Any] = {}
    position = 0
    for ending in MEMBERS:
        header = bytes(view[position : position + tarfile.BLOCKSIZE])
        try:
            info = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise DataError(f"{where}: no tar header at byte {position} ({error})") from error
        start, position = position + tarfile.BLOCKSIZE, position + tarfile.BLOCKSIZE + info.size
        if not info.name.endswith("." + ending) or position > len(view):
            raise DataError(f"{where}: member '{info.name}' ({info.size} bytes) where *.{ending} was expected")
        payload = view[start:position]
        position += -info.size % tarfile.BLOCKSIZE
        arrays[ending] = _read_payload(payload, ending, where)
    for name in (DOCUMENTS, SENTENCES):
        if arrays[name].dtype != np.dtype("<u4"):
            raise DataError(f"{where}: {name} is {arrays[name].dtype}, expected uint32")
    if not isinstance(arrays[METADATA], dict):
        raise DataError(f"{where}: its metadata is a {type(arrays[METADATA]).__name__}, expected a JSON object")
    return Block(arrays[TOKENS], arrays[DOCUMENTS], arrays[SENTENCES], arrays[METADATA])


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _read_payload(payload: memoryview, ending: str, where: str) -> Any:
    try:
        return json.loads(bytes(payload)) if ending == METADATA else _read_npy(payload)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot decode its {ending} ({error})") from error


def _read_npy(payload: memoryview) -> np.ndarray:
    """Read a 1-D array of unsigned integers.

    numpy's own reader parses the header as Python, raises half a dozen kinds of error on a damaged one, and allocates
    what it claims before it looks at what is there.
    """
    length = int.from_bytes(payload[8:10], "little")
    header = _NPY_HEADER.fullmatch(bytes(payload[10 : 10 + length]))
    if bytes(payload[:8]) != b"\x93NUMPY\x01\x00" or header is None:
        raise ValueError("not an npy file of version 1.0 with a 1-D array of uint16 or uint32")
    dtype, count = np.dtype(header[1].decode()), int(header[2])
    if len(payload) != 10 + length + count * dtype.itemsize:
        raise ValueError(f"{len(payload)} bytes, expected {10 + length + count * dtype.itemsize} for {count} entries")
    return np.frombuffer(payload, dtype, count, 10 + length).copy()
