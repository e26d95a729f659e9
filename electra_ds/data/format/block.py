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

TEXT, PAIRS = "text", "pairs"
KINDS = (TEXT, PAIRS)
"""What the documents of a shard are: texts by themselves; or translations of each other, document 0 and 1 of a block, 2
and 3, and so on."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Smallest little-endian dtype that holds every id: uint16 up to 65,536 entries, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


_MEMBER_NAME = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_OCTAL = re.compile(rb"[0-7]{1,11}[ \0]{1,2}")
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
            ``pairs`` tells that each two documents are translations of each other; then a run is of pairs, and the
            second text of each has the label after the first one's.
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
        within = np.minimum(np.searchsorted(self.sentences, self.documents), len(self.sentences) - 1)
        if np.any(self.sentences[within] != self.documents):
            raise DataError("block: every document start must also be a sentence start")

    @property
    def document_ends(self) -> np.ndarray:
        """[D] int64, one past the last token of each document."""
        return np.append(self.documents[1:], len(self.tokens)).astype(np.int64)

    def label(self, document: int) -> list[str]:
        """Source, language and file of a document; empty strings where unknown."""
        labels, runs = self.metadata.get("labels", []), self.metadata.get("runs", [])
        number = next((number for first, number in reversed(runs) if first <= document), None)
        if number is not None and self.metadata.get("pairs"):
            number += document % 2
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


def decode_block(data: bytes | memoryview, where: str = "block", key: str | None = None) -> Block:
    """Read what `encode_block` wrote.

    Args:
        data: the bytes from the block's offset on, as long as its index record says.
        where: named in errors, for example ``train-000000.tar block 3``.
        key: what its members must be called, without their endings; unset takes any name.

    Raises:
        DataError: the bytes are not a block. Nothing is unpickled, and nothing is allocated but what is there.
    """
    view = memoryview(data)
    position = 0
    arrays: dict[str, Any] = {}
    for ending in MEMBERS:
        name, size = _read_header(bytes(view[position : position + tarfile.BLOCKSIZE]), f"{where}: byte {position}")
        key = name.removesuffix("." + ending) if key is None else key
        start, end = position + tarfile.BLOCKSIZE, position + tarfile.BLOCKSIZE + size
        position = end + -size % tarfile.BLOCKSIZE
        if name != f"{key}.{ending}" or position > len(view):
            raise DataError(f"{where}: member '{name}' ({size} bytes) where '{key}.{ending}' was expected")
        if any(view[end:position]):
            raise DataError(f"{where}: member '{name}' is not padded with zero bytes")
        arrays[ending] = _read_payload(view[start:end], ending, where)
    if position != len(view):
        raise DataError(f"{where}: {len(view):,} bytes, but its four members end at byte {position:,}")
    for name in (DOCUMENTS, SENTENCES):
        if arrays[name].dtype != np.dtype("<u4"):
            raise DataError(f"{where}: {name} is {arrays[name].dtype}, expected uint32")
    if problem := _metadata_problem(arrays[METADATA], len(arrays[DOCUMENTS])):
        raise DataError(f"{where}: its metadata {problem}")
    try:
        return Block(arrays[TOKENS], arrays[DOCUMENTS], arrays[SENTENCES], arrays[METADATA])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _read_header(header: bytes, where: str) -> tuple[str, int]:
    """Name and payload bytes of a plain file's USTAR header.

    tarfile takes a dozen dialects, links, devices and negative sizes; what writes shards makes one kind of header.
    """
    name, size, checksum = header[:100].rstrip(b"\0"), header[124:136], header[148:156]
    if len(header) < tarfile.BLOCKSIZE or not _MEMBER_NAME.fullmatch(name):
        raise DataError(f"{where}: no tar header, or a member name that no block has ({name[:40]!r})")
    if header[257:265] != b"ustar\x0000" or header[156:157] != tarfile.REGTYPE:
        raise DataError(f"{where}: not the USTAR header of a plain file (type {header[156:157]!r})")
    if not _OCTAL.fullmatch(size) or not _OCTAL.fullmatch(checksum):
        raise DataError(f"{where}: size {size!r} or checksum {checksum!r} is no octal number")
    if int(checksum.rstrip(b" \0"), 8) != sum(header) - sum(checksum) + 8 * ord(" "):
        raise DataError(f"{where}: the tar header's checksum does not match")
    if any(header[157:257]) or any(header[345:]):
        raise DataError(f"{where}: the tar header names a link or a folder")
    return name.decode(), int(size.rstrip(b" \0"), 8)


def _metadata_problem(metadata: Any, documents: int) -> str | None:
    """What is wrong with a block's JSON, None if nothing; other keys than the known ones are left alone."""
    if not isinstance(metadata, dict):
        return f"is a {type(metadata).__name__}, expected a JSON object"
    labels, runs = metadata.get("labels", []), metadata.get("runs", [])
    if not isinstance(labels, list) or not all(
        isinstance(label, list) and all(isinstance(part, str) for part in label) for label in labels
    ):
        return "has labels that are no lists of texts"
    if not isinstance(runs, list) or not all(
        isinstance(run, list) and len(run) == 2 and all(type(part) is int for part in run) for run in runs
    ):
        return "has runs that are no pairs of numbers"
    firsts = [first for first, _ in runs]
    if any(not 0 <= first < documents for first in firsts) or firsts != sorted(set(firsts)):
        return f"has runs that do not follow each other through {documents} documents"
    if any(not 0 <= number < len(labels) for _, number in runs):
        return f"has runs of labels that are not among its {len(labels)}"
    if metadata.get("pairs", False) is not False:
        firsts_fit = all(first % 2 == number % 2 == 0 and number + 1 < len(labels) for first, number in runs)
        if metadata["pairs"] is not True or documents % 2 or metadata.get("continues") or not firsts_fit:
            return "has pairs, but no whole pairs of documents and labels"
    return None


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def strict_json(data: bytes) -> Any:
    """Decode UTF-8 JSON; refuse what json.loads lets pass: NaN, infinities, keys given twice.

    Raises:
        ValueError: not such JSON.
        RecursionError: nested too deep.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is given twice")
        return found

    return json.loads(data.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)


def _read_payload(payload: memoryview, ending: str, where: str) -> Any:
    try:
        return strict_json(bytes(payload)) if ending == METADATA else _read_npy(payload)
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
