"""Reading behind a URL through fsspec, patiently: what fails in passing is tried again, what is short is an error.

Settings (a custom S3 endpoint, keys, a proxy) are fsspec's own and the protocol's: environment variables such as
``AWS_ENDPOINT_URL``, ``FSSPEC_S3_ANON=true``, or files in ``~/.config/fsspec``. Worker processes see the same.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from electra_ds.errors import DataError, UserError

T = TypeVar("T")

ATTEMPTS = 6
"""How often a request is made before it is given up."""

FIRST_WAIT = 1.0
"""Seconds before the second attempt; each later wait is twice as long: 31 s in all."""

TIMEOUT = 30.0
"""Seconds without a byte, or without a connection, after which an attempt (of http and s3) has failed."""

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

_PASSING_STATUS = (408, 425, 429)
_CLIENTS = ("aiohttp", "aiobotocore", "botocore", "urllib3", "requests", "httpx", "httpcore", "gcsfs")


class _ShortAnswer(OSError):
    """Fewer bytes came than were asked for."""


def is_url(name: str) -> bool:
    """Tell whether a name is for fsspec (``s3://bucket/key``) rather than a path."""
    return "://" in name


def path_of(name: str) -> str:
    """Return a name without an http URL's query and fragment."""
    if name.startswith(("http://", "https://")):
        return urlsplit(name).path
    return name


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the URL's path in it.

    Raises:
        UserError: the protocol is unknown or its package is not installed.
    """
    import fsspec.core

    protocol = url.partition("://")[0]
    try:
        file_system, path = fsspec.core.url_to_fs(url, **_settings(protocol))
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        advice = f"pip install {package}" if package else "install it"
        raise UserError(
            f"inputs: {url}: {protocol}:// needs a package that is not installed ({error}); {advice}"
        ) from (error)
    except ValueError as error:
        raise UserError(f"inputs: {url}: {error}; fsspec knows file, s3, gs, hf, http, https and others") from error
    if protocol in ("s3", "s3a"):
        file_system.retries = 1  # `patiently` does it, and says so
    return file_system, path


def _settings(protocol: str) -> dict[str, Any]:
    """Return what is set for a protocol where fsspec's configuration does not."""
    import fsspec.config

    settings: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
        # A server that compresses on the way cannot answer ranges.
        settings = {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}
    elif protocol in ("s3", "s3a"):
        once = {"total_max_attempts": 1, "mode": "standard"}
        settings = {"config_kwargs": {"connect_timeout": TIMEOUT, "read_timeout": TIMEOUT, "retries": once}}
    configured = fsspec.config.conf.get(protocol, {})
    return {name: value for name, value in settings.items() if name not in configured}


def patiently(url: str, attempt: Callable[[], T]) -> T:
    """Do something that may fail in passing, up to `ATTEMPTS` times.

    Raises:
        DataError: it failed for good, or too often.
    """
    begin = time.monotonic()
    wait = FIRST_WAIT
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:
            if not _may_pass(error):
                raise DataError(f"{url}: {_refusal(error)}") from error
            if number == ATTEMPTS:
                raise DataError(
                    f"{url}: {_describe(error)}; tried {ATTEMPTS} times in {time.monotonic() - begin:.0f} s. "
                    "Run the same command again when the server answers: what is done is kept"
                ) from error
        time.sleep(wait)
        wait *= 2
    raise AssertionError("unreachable")


def fetch(url: str, start: int, end: int, size: int) -> bytes:
    """Return a range of a file's bytes, all of it.

    Raises:
        DataError: it cannot be had, after several attempts.
    """

    def attempt() -> bytes:
        file_system, path = _no_missing_package(url)
        if url.startswith(("http://", "https://")):
            # cat_file would load the whole file from a server that ignores ranges.
            with file_system.open(path, block_size=1, cache_type="none", size=size) as file:
                file.seek(start)
                data = file.read(end - start)
        else:
            data = file_system.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise _ShortAnswer(f"bytes {start:,} to {end:,} of {size:,} were asked for, {len(data):,} bytes came")
        return data

    return patiently(url, attempt)


def _no_missing_package(url: str) -> tuple[Any, str]:
    return file_system(url)


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
    file_system, path = _no_missing_package(pattern)
    is_http = pattern.startswith(("http://", "https://"))

    def attempt() -> dict[str, dict[str, Any]]:
        file_system.invalidate_cache()
        if any(sign in path for sign in ("*[" if is_http else "*[?")):
            found = file_system.glob(path, detail=True)
        else:
            try:
                about = {} if is_http and not has_known_ending(pattern) else file_system.info(path)
            except FileNotFoundError as error:
                if _may_pass(error):
                    raise
                return {}
            if about.get("type") == "file":
                return {path: about}
            found = file_system.find(path, detail=True)
            found = {name: about for name, about in found.items() if has_known_ending(name)}
        return {name: about for name, about in found.items() if about.get("type") == "file"}

    for name, about in sorted(patiently(pattern, attempt).items()):
        url = file_system.unstrip_protocol(name)
        if about.get("size") is None:
            about = patiently(url, lambda name=name: file_system.info(name))  # type: ignore[misc]
        yield url, about


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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return an HTTP status that an error of one of the clients carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return int(found) if str(found).isdigit() else None


def _may_pass(error: BaseException) -> bool:
    """Tell whether the same request may succeed later: timeouts, broken connections, busy servers, short answers."""
    chain = list(_chain(error))
    statuses = [status for one in chain if (status := _status(one)) is not None]
    if statuses:
        return statuses[-1] >= 500 or statuses[-1] in _PASSING_STATUS
    if any(isinstance(one, (TimeoutError, ConnectionError, EOFError, _ShortAnswer)) for one in chain):
        return True
    if any(isinstance(one, (FileNotFoundError, PermissionError, IsADirectoryError)) for one in chain):
        return False
    return any(isinstance(one, OSError) or type(one).__module__.split(".")[0] in _CLIENTS for one in chain)


def _describe(error: BaseException) -> str:
    deepest = list(_chain(error))[-1]
    status = next((status for one in _chain(error) if (status := _status(one)) is not None), None)
    if status is not None:
        return f"the server answers {status} ({deepest})"
    if isinstance(error, _ShortAnswer):
        return f"the answer is cut short ({error})"
    if isinstance(deepest, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    return f"{type(deepest).__name__}: {deepest}"


def _refusal(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if "range requests" in text:
        return "the server does not answer byte ranges; download the file and give its path"
    if any(isinstance(one, FileNotFoundError) for one in _chain(error)):
        return "is not there (404)"
    if type(error).__name__ == "NoCredentialsError":
        return f"{text}; set the keys in the environment, or FSSPEC_S3_ANON=true for a public bucket"
    return f"cannot be read ({text})"
