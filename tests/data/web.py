"""A web server of files that can be told to misbehave."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Web(ThreadingHTTPServer):
    """Serves a folder with byte ranges, and remembers each GET: (name, first byte, last byte).

    `faults` holds (pattern, action) pairs; the first one whose pattern matches the name of a GET is taken out and done
    in place of answering well. Actions are methods of `Handler`, called with what should have been sent.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, folder))
        self.requests: list[tuple[str, int, int]] = []
        self.faults: list[tuple[str, Callable[..., None]]] = []
        self.lock = threading.Lock()

    def handle_error(self, *_) -> None:
        """A client that hangs up is none."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, pattern: str, action: Callable[..., None], times: int = 1) -> None:
        self.faults += [(pattern, action)] * times

    def ranges(self, ending: str = ".tar") -> list[tuple[str, int, int]]:
        """Requests of files with this ending."""
        return [request for request in self.requests if request[0].endswith(ending)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def __init__(self, folder: Path, *arguments) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, send_body: bool) -> None:
        name = self.path.lstrip("/")
        path = self.folder / name
        if not path.is_file():
            return self.refuse(404)
        data = path.read_bytes()
        first, last, status = 0, len(data) - 1, 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last, status = int(found[1]), min(int(found[2]), len(data) - 1), 206
        fault = None
        if send_body:
            with self.server.lock:
                self.server.requests.append((name, first, last))
                fault = next((entry for entry in self.server.faults if re.search(entry[0], name)), None)
                if fault:
                    self.server.faults.remove(fault)
        if fault:
            return fault[1](self, data, first, last)
        return self.send(status, data[first : last + 1] if send_body else b"", first, last, len(data))

    def send(self, status: int, body: bytes, first: int, last: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    # What a fault can be.

    def unavailable(self, *_) -> None:
        self.refuse(503)

    def forbidden(self, *_) -> None:
        self.refuse(403)

    def hang(self, *_) -> None:
        time.sleep(4)
        self.close_connection = True

    def truncate(self, data: bytes, first: int, last: int) -> None:
        """Promise everything, send half, and hang up."""
        self.send(206, data[first : (first + last) // 2], first, last, len(data))
        self.close_connection = True

    def shorten(self, data: bytes, first: int, last: int) -> None:
        """Send half as if it were all."""
        last = (first + last) // 2
        self.send(206, data[first : last + 1], first, last, len(data))

    def shift(self, data: bytes, first: int, last: int) -> None:
        """Send bytes of another place, and say so."""
        self.send(206, bytes(last - first + 1), first + 7, last + 7, len(data))

    def ignore_range(self, data: bytes, *_) -> None:
        self.send(200, data, 0, len(data) - 1, len(data))

    def hang_up(self, *_) -> None:
        self.close_connection = True


@contextmanager
def serve(folder: Path) -> Iterator[Web]:
    """Run a server of `folder` in a thread."""
    server = Web(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
