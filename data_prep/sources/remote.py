"""Reading behind a URL through fsspec, patiently: what fails in passing is tried again, what is short is an error.

Settings (a custom S3 endpoint, keys, a proxy) are fsspec's own and the protocol's: environment variables such as
``AWS_ENDPOINT_URL``, ``FSSPEC_S3_ANON=true``, or files in ``~/.config/fsspec``. Worker processes see the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any
from urllib.parse import urlsplit

from electra_ds.errors import DataError, UserError
from electra_ds.remote import Retry, Truncated, with_retries

RETRY = Retry(retries=5, timeout=60.0, first_delay=1.0)
"""A request is made up to six times, each for up to a minute, with pauses of 1, 2, 4, 8 and 16 s: 6.5 minutes."""

_BLOCK = 8 << 20
"""Bytes that a reader asks for at a time, one block ahead."""

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "abfs": "adlfs",
    "az": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
}
"""Protocol: what pip installs for it."""


def path_of(name: str) -> str:
    """Return a name without an http URL's query, or what it is taken out of (``zip://name::s3://...``)."""
    if "://" in name.partition("::")[0]:
        name = name.partition("::")[0]
    return urlsplit(name).path if _is_http(name) else name


def _is_http(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the URL's path in it.

    Raises:
        UserError: the protocol is unknown or its package is not installed.
    """
    import fsspec.core

    protocol = url.partition("://")[0]
    try:
        files, path = fsspec.core.url_to_fs(url, **_settings(protocol))
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        advice = f"pip install {package}" if package else "install it"
        raise UserError(
            f"inputs: {url}: {protocol}:// needs a package that is not installed ({error}); {advice}"
        ) from error
    except ValueError as error:
        raise UserError(f"inputs: {url}: {error}; fsspec knows file, s3, gs, hf, http, https and others") from error
    if hasattr(files, "retries"):
        files.retries = 1  # they are made here; the library's own would multiply with them
    return files, path


def _settings(protocol: str) -> dict[str, Any]:
    """Return what is set for a protocol where fsspec's configuration does not."""
    import fsspec.config

    settings: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=RETRY.timeout, sock_read=RETRY.timeout)
        # A server that compresses on the way cannot answer ranges.
        settings = {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}
    elif protocol in ("s3", "s3a"):
        once = {"total_max_attempts": 1, "mode": "standard"}
        settings = {"config_kwargs": {"connect_timeout": RETRY.timeout, "read_timeout": RETRY.timeout, "retries": once}}
    configured = fsspec.config.conf.get(protocol, {})
    return {name: value for name, value in settings.items() if name not in configured}


def fetch(url: str, start: int, end: int, size: int) -> bytes:
    """Return a range of a file's bytes, all of it.

    Raises:
        DataError: it cannot be had, after several attempts.
    """

    def attempt() -> bytes:
        files, path = file_system(url)
        if _is_http(url):
            # cat_file would load all of a large file from a server that ignores ranges.
            with files.open(path, block_size=1, cache_type="none", size=size) as file:
                file.seek(start)
                try:
                    data = file.read(end - start)
                except ValueError as error:
                    raise DataError(f"{url}: its server does not answer byte ranges; download it first") from error
        else:
            limit = {"timeout": RETRY.timeout} if files.async_impl else {}
            data = files.cat_file(path, start=start, end=end, **limit)
        if len(data) < end - start:
            raise Truncated(f"cut short: {len(data):,} of {end - start:,} bytes came")
        if len(data) > end - start:
            raise DataError(f"{url}: its server does not answer byte ranges; download it first")
        return data

    return with_retries(attempt, f"{url} (bytes {start:,} to {end:,} of {size:,})", RETRY)


def open_reader(url: str, size: int) -> IO[bytes]:
    """Open for reading from anywhere; reading on is served one block ahead."""
    return io.BufferedReader(_Reader(url, size), 1 << 20)


class _Reader(io.RawIOBase):
    """A remote file in blocks; the next is on its way while one is read."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._position = 0
        self._start, self._block = 0, b""
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._executor: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        if not self._start <= self._position < self._start + len(self._block):
            self._load(wanted)
        begin = self._position - self._start
        count = min(wanted, len(self._block) - begin)
        buffer[:count] = self._block[begin : begin + count]
        self._position += count
        return count

    def _load(self, wanted: int) -> None:
        goes_on = self._position == self._start + len(self._block)
        if self._ahead is not None and self._ahead[0] == self._position:
            self._block = self._ahead[1].result()
        else:
            # After a jump no more than asked for: a table's reader asks for what it needs.
            length = max(wanted, _BLOCK if goes_on else 1 << 16)
            self._block = fetch(self._url, self._position, min(self._position + length, self._size), self._size)
        self._start, self._ahead = self._position, None
        following = self._start + len(self._block)
        if goes_on and following < self._size:
            self._executor = self._executor or ThreadPoolExecutor(1)
            end = min(following + _BLOCK, self._size)
            self._ahead = following, self._executor.submit(fetch, self._url, following, end, self._size)

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        super().close()


def find(pattern: str, has_known_ending: Callable[[str], bool]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Resolve a URL, a folder's URL or a URL pattern to files: their URLs, sorted, and what the server tells of each.

    Args:
        pattern: the URL.
        has_known_ending: tells names of readable files from others, of which a folder may hold some.

    Raises:
        UserError: the protocol's package is missing.
        DataError: the server does not answer.
    """
    files, path = file_system(pattern)
    is_pattern = any(sign in path for sign in ("*[" if _is_http(pattern) else "*[?"))

    def attempt() -> dict[str, dict[str, Any]]:
        files.invalidate_cache()
        if is_pattern:
            found = files.glob(path, detail=True)
        elif not _is_http(pattern) or has_known_ending(pattern):
            about = files.info(path)
            if about["type"] == "file":
                return {path: about}
            found = files.find(path, detail=True)
        else:
            found = files.find(path, detail=True)
        return {
            name: about
            for name, about in found.items()
            if about["type"] == "file" and (is_pattern or has_known_ending(name))
        }

    for name, about in sorted(with_retries(attempt, pattern, RETRY).items()):
        url = _url(pattern, files, name)
        if about.get("size") is None:
            about = with_retries(lambda name=name: files.info(name), url, RETRY)  # type: ignore[misc]
        yield url, about


def _url(pattern: str, files: Any, name: str) -> str:
    """Return the URL of a file that a pattern found."""
    head, chained, rest = pattern.partition("::")
    if not chained:
        return str(files.unstrip_protocol(name))
    if "://" in head:
        return f"{head.partition('://')[0]}://{name}::{rest}"
    return f"{head}::{rest.partition('://')[0]}://{name}"


def size_of(url: str, about: dict[str, Any]) -> int:
    """Return a file's size.

    Raises:
        DataError: the server does not tell it, so that a short answer could not be told from the end.
    """
    if not isinstance(about.get("size"), int):
        raise DataError(f"{url}: the server does not tell the size of this file; download it and give its path")
    return int(about["size"])


def written(about: dict[str, Any]) -> str:
    """Return what changes when a file is written anew: its etag, or else a time of change."""
    for name in ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "Last-Modified", "last_modified"):
        if about.get(name):
            return str(about[name])
    return ""
