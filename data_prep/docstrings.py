"""English prose that every installation has: the documentation strings of its Python packages.

The .py files are parsed, never imported. Parsing everything takes most of a minute on one core, so what was extracted
from a package is kept in the cache folder (``$XDG_CACHE_HOME/electra_ds``, else ``~/.cache/electra_ds``) under a name
that changes when any of the package's files does.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import os
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from electra_ds.errors import UserError, did_you_mean
from electra_ds.files import atomic_write

STANDARD_LIBRARY = "python"
"""The name under which the standard library is asked for."""

EXTRACTION_VERSION = 1
"""Part of the cache's key: raise it when the extraction changes."""

_FILES_PER_TASK = 40
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages"}


class Docstring(NamedTuple):
    """One documentation string."""

    module: str
    """Path of its file below the folder that holds the package, with ``/``: ``numpy/linalg/_linalg.py``."""
    text: str
    """As `inspect.cleandoc` leaves it."""


@dataclass(frozen=True)
class Package:
    """The .py files of one top-level package, module, or the standard library."""

    name: str
    root: Path
    """Folder that the file paths are relative to."""
    files: tuple[tuple[str, int, int], ...]
    """Relative path, bytes and time stamp (ns) of each file, sorted by path."""

    @property
    def size(self) -> int:
        """Bytes of source code."""
        return sum(size for _, size, _ in self.files)

    def identity(self) -> str:
        """Digest of paths and sizes: the same for two installations of one release."""
        return _digest([self.name, EXTRACTION_VERSION, [file[:2] for file in self.files]])

    def cache_path(self) -> Path:
        """Return where the extracted strings are kept."""
        key = _digest([self.name, EXTRACTION_VERSION, str(self.root), self.files])
        return cache_folder() / f"docstrings-{self.name}-{key}.jsonl.zst"


def cache_folder() -> Path:
    """Return the project's cache folder (it need not exist)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "electra_ds"


def find_packages(names: Iterable[str] = ()) -> list[Package]:
    """Find installed packages by their import names; without names, all of them and the standard library.

    Raises:
        UserError: a name is not installed.
    """
    names = list(names)
    known = _installed_names()
    packages = []
    for name in names or [*known, STANDARD_LIBRARY]:
        package = _standard_library() if name == STANDARD_LIBRARY else _find(name)
        if package is None and names:
            raise UserError(
                f"inputs: docstrings: no Python package '{name}' is installed{did_you_mean(name, known)}; "
                f"give import names such as numpy,scipy, or {STANDARD_LIBRARY} for the standard library"
            )
        if package and package.files:
            packages.append(package)
    return packages


def docstrings_of(package: Package, executor: Executor | None = None) -> Iterator[Docstring]:
    """Yield a package's documentation strings in the order of path and line, from the cache if it has them.

    Args:
        package: what to read.
        executor: processes to parse with; None parses here.
    """
    cached = package.cache_path()
    if not cached.is_file():
        _fill_cache(package, cached, executor)
    import zstandard

    with open(cached, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield Docstring(*json.loads(line))


def is_held_out(module: str, share: float) -> bool:
    """Tell whether a module belongs to the held-out `share`: a pure function of its path."""
    number = int.from_bytes(hashlib.blake2b(f"held out\0{module}".encode(), digest_size=8).digest())
    return number < share * 2**64


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()


def _site_folders() -> list[str]:
    paths = sysconfig.get_paths()
    return sorted({paths["purelib"], paths["platlib"]})


def _installed_names() -> list[str]:
    names = set()
    for folder in _site_folders():
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            stem = entry.name.removesuffix(".py") if entry.is_file() and entry.name.endswith(".py") else entry.name
            if (entry.is_dir() or stem != entry.name) and stem.isidentifier() and not stem.startswith("__"):
                names.add(stem)
    return sorted(names - {"data_prep", "electra_ds"})


def _find(name: str) -> Package | None:
    if not name.isidentifier():
        return None
    # PathFinder looks at files only; nothing of the package is executed.
    spec = PathFinder.find_spec(name, _site_folders()) or PathFinder.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        return Package(name, folder.parent, tuple(_python_files(folder, folder.parent)))
    if spec.origin and spec.origin.endswith(".py"):
        file = Path(spec.origin)
        status = file.stat()
        return Package(name, file.parent, ((file.name, status.st_size, status.st_mtime_ns),))
    return None


def _standard_library() -> Package:
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = (file for file in _python_files(folder, folder) if not file[0].startswith("test/"))
    return Package(STANDARD_LIBRARY, folder, tuple(files))


def _python_files(folder: Path, root: Path) -> list[tuple[str, int, int]]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in files:
            if name.endswith(".py"):
                path = Path(parent, name)
                with suppress(FileNotFoundError):  # a dangling link
                    status = path.stat()
                    found.append((path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(found)


def _fill_cache(package: Package, cached: Path, executor: Executor | None) -> None:
    import zstandard

    files = [file for file, _, _ in package.files]
    tasks = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    apply = executor.map if executor else map
    lines = [
        json.dumps(docstring, ensure_ascii=False)
        for found in apply(_extract_files, [str(package.root)] * len(tasks), tasks)
        for docstring in found
    ]
    data = "".join(line + "\n" for line in lines).encode("utf-8", "replace")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        # Two runs may fill the cache at once: each writes a file of its own, the last rename stands.
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix="filling-") as folder:
            with atomic_write(Path(folder) / cached.name) as file:
                file.write(zstandard.ZstdCompressor(level=6).compress(data))
            os.replace(Path(folder) / cached.name, cached)
    except OSError as error:
        raise UserError(
            f"{cached.parent}: cannot keep the extracted documentation strings ({error}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def _extract_files(root: str, files: list[str]) -> list[Docstring]:
    """Parse files; one that is not valid Python is passed over."""
    found = []
    for file in files:
        try:
            tree = ast.parse(Path(root, file).read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            continue
        found += [Docstring(file, text) for text in _extract(tree)]
    return found


def _extract(tree: ast.Module) -> Iterator[str]:
    """Yield the documentation strings of a module, in the order of their lines."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield inspect.cleandoc(first.value.value)
        # Definitions inside `if` and `try` count; expressions and match statements cannot hold any.
        inner = [*body, *getattr(node, "handlers", ()), *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
        nodes.extend(reversed([child for child in inner if hasattr(child, "body")]))
