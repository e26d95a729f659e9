"""Real prose that every machine has: documentation strings of whatever is installed, as JSON lines."""

from __future__ import annotations

import ast
import json
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

SHORTEST = 200
"""Characters of the shortest document taken."""


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
