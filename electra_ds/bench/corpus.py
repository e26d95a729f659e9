"""Text to measure with: documentation strings, which every machine has, or the user's files; and copies of either."""

from __future__ import annotations

import ast
import bz2
import glob
import gzip
import hashlib
import io
import json
import lzma
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from electra_ds.errors import UserError

SHORTEST = 200
"""Characters of the shortest documentation string taken."""
LONGEST_LINE = 8_388_608
"""Bytes of the longest line read: `prep` passes over longer ones unless told otherwise."""
COPY_FILE_BYTES = 64_000_000
"""Text of a file of copies, at least."""

_BEGIN = b'{"text": "'
_SURROGATE = re.compile("[\ud800-\udfff]")


def write_documents(path: Path, size: int) -> tuple[int, int]:
    """Write documents until they hold `size` bytes of text, each once; from the beginning again if there are too few.

    Nothing is imported or run: files are parsed.

    Args:
        path: JSON-lines file to write.
        size: bytes of UTF-8 text, at least.

    Returns:
        Number of documents, and bytes of their text.
    """
    count = written = number = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            for text in documents():
                # A repetition must not look like a duplicate.
                text = text if not number else f"Copy {number} of {count}. {text}"
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                count, written = count + 1, written + len(text.encode())
                if written >= size:
                    break
            number += 1
    return count, written


def documents() -> Iterator[str]:
    """Documentation strings of the installed packages, then of the standard library, in the order of their files."""
    seen: set[str] = set()
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        for path in sorted(Path(folder).rglob("*.py")):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tree = ast.parse(path.read_text("utf-8"))
            except (OSError, ValueError, SyntaxError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    text = ast.get_docstring(node)
                    if text and len(text) >= SHORTEST and text not in seen:
                        seen.add(text)
                        yield text


def find_files(patterns: str | Sequence[str]) -> list[Path]:
    """Expand patterns, the matches of each in sorted order.

    Raises:
        UserError: a pattern matches no file.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
        if not matches:
            raise UserError(f"corpus={pattern}: no such file; expected JSON lines (.jsonl, also .gz, .zst, .bz2, .xz)")
        found += matches
    return found


def write_texts(files: Iterable[Path], field: str, path: Path) -> tuple[int, int]:
    """Write the texts of JSON-lines files as one such file: what `prep` keeps of them with its defaults.

    Args:
        files: to read; compressed ones by their endings.
        field: name of the field with the text.
        path: to write; each line is an object with the field ``text`` alone.

    Returns:
        Number of documents, and bytes of their text.

    Raises:
        UserError: a line is not JSON, or lacks the field; or there is no text at all.
    """
    count = written = 0
    seen: set[bytes] = set()
    with open(path, "w", encoding="utf-8") as file:
        for text in (text for source in files for text in _texts(source, field)):
            data = text.encode()
            digest = hashlib.blake2b(data, digest_size=16).digest()
            if digest not in seen and data.strip():
                seen.add(digest)
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                count, written = count + 1, written + len(data)
    if not count:
        raise UserError("corpus: no document with text in these files")
    return count, written


def _texts(path: Path, field: str) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace() or len(line) > LONGEST_LINE + 1:
                continue
            try:
                text = json.loads(line)[field]
                yield _SURROGATE.sub("\ufffd", text)
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"{path}: line {number} is no JSON object with a text in '{field}' ({problem})"
                ) from error


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".zst":
        import zstandard

        # One reader for all frames: a file may be several, one after another.
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
        return io.BufferedReader(reader, 1 << 20)
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    opened: BinaryIO = openers.get(path.suffix, open)(path, "rb")
    return opened


def write_copies(corpus: Path, size: int, wanted: int, folder: Path) -> str:
    """Write a corpus over and over, or a part of it, as compressed files.

    Each copy's documents begin with its number, so that none is a duplicate of another. What is less than a copy is
    taken from all over the corpus.

    Args:
        corpus: from `write_documents` or `write_texts`.
        size: bytes of its text.
        wanted: bytes of text to write, about.
        folder: made.

    Returns:
        A pattern of the files.
    """
    import zstandard

    folder.mkdir(parents=True)
    copies, rest = divmod(wanted, size)
    number = file_number = 0
    while number < copies or rest:
        with (
            open(folder / f"copies-{file_number:05d}.jsonl.zst", "wb") as raw,
            zstandard.ZstdCompressor(level=1, threads=-1).stream_writer(raw) as file,
        ):
            filled = 0
            while number < copies and filled < COPY_FILE_BYTES:
                for block in _blocks(corpus):
                    file.write(block if not number else _marked(block, number))
                number, filled = number + 1, filled + size
            if number == copies and rest and filled < COPY_FILE_BYTES:
                for line in _spread(corpus, rest / size):
                    file.write(_marked(line, number) if number else line)
                rest = 0
        file_number += 1
    return str(folder / "copies-*.jsonl.zst")


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time."""
    with open(path, "rb") as file:
        while lines := file.readlines(1 << 22):
            yield b"".join(lines)


def _marked(lines: bytes, number: int) -> bytes:
    mark = _BEGIN + f"Copy {number}. ".encode()
    return mark + lines[len(_BEGIN) :].replace(b"\n" + _BEGIN, b"\n" + mark)


def _spread(path: Path, share: float) -> Iterator[bytes]:
    """Some of a file's lines, a share of its bytes, from all over it; at least one."""
    due, none = 0.0, True
    with open(path, "rb") as file:
        first = file.readline()
        file.seek(0)
        for line in file:
            due += share * len(line)
            if due >= len(line):
                due, none = due - len(line), False
                yield line
    if none:
        yield first
