"""Reading files of any fsspec URL (s3, gs, http, hf, ...), with retries and errors that say what happened.

Standard library only until the first URL is opened: `data_prep` and `electra_ds.data.format` use this on machines that
have little else.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from electra_ds.errors import DataError, UserError

Answer = TypeVar("Answer")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_LOCAL = re.compile(r"(file|local)://")
_FLATTENED = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)")

_FINAL = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
)
"""Kinds of error that the next try would meet again."""
_WORTH_ANOTHER_TRY = (408, 425, 429)
"""HTTP states below 500 that pass: request timeout, too early, too many requests."""


@dataclass(frozen=True)
class Retry:
    """How long to insist.

    Attributes:
        retries: tries after the first one (count).
        timeout: longest wait for one answer (seconds).
        first_delay: pause before the second try (seconds); each later one is twice as long, give or take a quarter.
        longest_delay: bound of the pause (seconds).
    """

    retries: int = 5
    timeout: float = 60.0
    first_delay: float = 0.5
    longest_delay: float = 30.0

    def delays(self) -> Iterator[float]:
        """Pauses before the tries after the first (seconds), spread so that ranks do not come back all at once."""
        chance = random.Random()  # its own: the run's generators must not move because a server stumbled
        for number in range(self.retries):
            yield min(self.first_delay * 2**number, self.longest_delay) * chance.uniform(0.75, 1.25)

    @property
    def longest(self) -> float:
        """Bound of all tries and pauses together (seconds)."""
        pauses = sum(min(self.first_delay * 2**number, self.longest_delay) for number in range(self.retries))
        return (self.retries + 1) * self.timeout + 1.25 * pauses


class Truncated(OSError):
    """An answer that holds fewer bytes than were asked for."""


class Missing(DataError):
    """A file that is not there, as far as the folder or server can tell."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path must be read through fsspec; ``file://`` names a local path."""
    text = location(path)
    return bool(_URL.match(text)) and not _LOCAL.match(text)


def location(path: str | os.PathLike[str]) -> str:
    """A path or URL as text: ``file://`` taken off, and the slash put back that pathlib takes from a URL."""
    text = os.fspath(path)
    if isinstance(path, PurePath):
        text = _FLATTENED.sub(r"\1://", text, count=1) if _FLATTENED.match(text) else text
    return _LOCAL.sub("", text, count=1) if _LOCAL.match(text) else text


def with_retries(action: Callable[[], Answer], what: str, retry: Retry, kind: type[UserError] = DataError) -> Answer:
    """Call `action` until it succeeds or what it raises would not change.

    Args:
        action: raises whatever its library raises.
        what: begins the message, for example ``s3://bucket/train-000000.tar (524,288 bytes at offset 0)``.
        retry: how often, and with which pauses.
        kind: class of the error raised.

    Raises:
        UserError: of class `kind`; names what was read, what happened and the number of tries.
    """
    delays = retry.delays()
    tries = 0
    while True:
        tries += 1
        try:
            return action()
        except UserError:
            raise
        except Exception as caught:  # every file system has its own kinds
            error = _behind(caught)
            pause = next(delays, None) if worth_retrying(error) else None
            if pause is None:
                if isinstance(error, FileNotFoundError) or http_status(error) == 404:
                    raise Missing(f"{what}: not found; check the address and that the set was copied whole") from error
                raise kind(f"{what}: {explain(error)} ({tries} {'try' if tries == 1 else 'tries'})") from error
            time.sleep(pause)


def worth_retrying(error: BaseException) -> bool:
    """Whether the next try may fare better: timeouts, lost connections, 5xx, 429 and truncated answers."""
    status = http_status(error)
    if status is not None:
        return status >= 500 or status in _WORTH_ANOTHER_TRY
    return not isinstance(error, _FINAL) and "Credential" not in type(error).__name__


def http_status(error: BaseException) -> int | None:
    """HTTP status that an error of aiohttp, botocore, httpx, requests or gcsfs carries, if any."""
    found = getattr(error, "status", None) or getattr(error, "code", None)
    seen: BaseException | None = error
    while seen is not None and not found:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(response, "status_code", None)
        seen = seen.__cause__  # s3fs raises Python's own kinds from botocore's
    return int(str(found)) if str(found).isdigit() and 100 <= int(str(found)) < 600 else None


def _behind(error: Exception) -> Exception:
    """Error that a file system hid: fsspec's HTTP calls a file missing when its server does not answer."""
    hidden = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(hidden, Exception) and http_status(hidden) != 404:
        return hidden
    return error


def explain(error: BaseException) -> str:
    """One sentence on a failed request, with what can be done about it."""
    status = http_status(error)
    said = f"{type(error).__name__}: {error}".rstrip(": ") + (f", HTTP status {status}" if status else "")
    if status in (401, 403) or isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"access refused ({said}); check the credentials of this machine and what they may read"
    if isinstance(error, ImportError):
        return f"{said}; install what fsspec needs for this kind of URL"
    if status == 416:
        return f"shorter than its index says ({said}); copy it anew"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return f"no answer in time ({said}); try again later"
    return f"{said}; try again later, or look at the server" if worth_retrying(error) else said


class RemoteFolder:
    """Files below one URL; every request is retried as `Retry` says. Safe to use from several threads."""

    def __init__(self, url: str, retry: Retry | None = None) -> None:
        """Connect to nothing yet, but find the file system that reads `url`.

        Raises:
            UserError: no such protocol, or its package is not installed.
        """
        self.url, self.retry = url.rstrip("/"), retry or Retry()
        self.requests = 0

        def find() -> tuple[Any, str]:
            import fsspec

            files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, **_options(self.url, self.retry))
            return files, root

        self._files, self._root = with_retries(find, self.url, Retry(retries=0), UserError)
        # Retrying is done here; the libraries' own retries would multiply with it.
        if hasattr(self._files, "retries"):
            self._files.retries = 1

    def path(self, name: str) -> str:
        """URL of a file, for messages."""
        return f"{self.url}/{name}"

    def read_file(self, name: str, at_most: int) -> bytes:
        """Read a whole file.

        Raises:
            DataError: it is larger than `at_most` bytes, or cannot be read; `Missing` if it is not there.
        """
        size = self.size(name)
        if size is not None and size > at_most:
            raise DataError(f"{self.path(name)}: {size:,} bytes, where at most {at_most:,} can be right")

        def read() -> bytes:
            data: bytes = self._call("cat_file", f"{self._root}/{name}")
            if size is not None and len(data) < size:
                raise Truncated(f"{len(data):,} of {size:,} bytes came")
            return data

        return with_retries(read, self.path(name), self.retry)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Read `size` bytes (> 0) from byte `offset` on, by one range request.

        Raises:
            DataError: missing, refused, or not whole after all tries; names URL, offset, size and tries.
        """

        def read() -> bytes:
            data: bytes = self._call("cat_file", f"{self._root}/{name}", start=offset, end=offset + size)
            if len(data) > size:
                raise ValueError(f"{len(data):,} bytes came: the server does not answer range requests")
            if len(data) < size:
                raise Truncated(f"{len(data):,} of {size:,} bytes came")
            return data

        return with_retries(read, f"{self.path(name)} ({size:,} bytes at offset {offset:,})", self.retry)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where the server does not tell.

        Raises:
            DataError: it is missing, or the server does not answer.
        """
        found = with_retries(lambda: self._call("info", f"{self._root}/{name}"), self.path(name), self.retry).get(
            "size"
        )
        return None if found is None else int(found)

    def exists(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            DataError: the server refuses or does not answer.
        """
        try:
            self.size(name)
        except Missing:
            return False
        return True

    def sizes(self, folder: str = "") -> dict[str, int | None] | None:
        """Files right inside a folder with their bytes; None where the server cannot list (plain HTTP).

        Raises:
            DataError: the server refuses or does not answer.
        """
        if "http" in str(self._files.protocol):
            return None
        path = f"{self._root}/{folder}" if folder else self._root

        def read() -> dict[str, int | None]:
            try:
                entries = self._call("ls", path, detail=True)
            except FileNotFoundError:
                entries = []
            return {entry["name"].rsplit("/", 1)[-1]: entry.get("size") for entry in entries if entry["type"] == "file"}

        return with_retries(read, f"{self.url}/{folder}".rstrip("/"), self.retry)

    def close(self) -> None:
        """Nothing is kept open but the file system's own session."""

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        self.requests += 1
        if self._files.async_impl:
            options["timeout"] = self.retry.timeout
        return getattr(self._files, method)(*arguments, **options)


def _options(url: str, retry: Retry) -> dict[str, Any]:
    """What the file system must be told so that it fails soon and lists afresh."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    from fsspec.config import conf

    mine = {"connect_timeout": min(10.0, retry.timeout), "read_timeout": retry.timeout, "retries": {"max_attempts": 0}}
    return {"config_kwargs": {**mine, **conf.get("s3", {}).get("config_kwargs", {})}, "use_listings_cache": False}
