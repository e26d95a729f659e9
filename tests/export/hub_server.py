"""The few addresses of the Hugging Face hub that a push calls, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

TOKEN = "hf_for_tests_only"


class Hub:
    """A hub that keeps what it is sent; a context.

    Attributes:
        url: of the hub.
        repositories: name of each to its files, name to content.
        private: which of them are.
        loses: repository whose commits forget their largest file.
        refuses: repository that takes no commit.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.loses: str | None = None
        self.refuses: str | None = None
        self.objects: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if path == "/api/whoami-v2":
            known = self.headers.get("authorization") == f"Bearer {TOKEN}"
            self._answer({"name": "me", "type": "user"} if known else {"error": "Invalid token"}, 200 if known else 401)
        elif path.startswith("/api/models/") and "/tree/" in path:
            files = self.hub.repositories[path.removeprefix("/api/models/").split("/tree/")[0]]
            self._answer([self._entry(name, content) for name, content in files.items()])
        else:
            self._answer({"error": "not here"}, 404)

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        path, body = urlparse(self.path).path, self._body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name'].split('/')[-1]}"
            self.hub.repositories.setdefault(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(name)
            self._answer({"url": f"{self.hub.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False} for f in files]}
            )
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [
                {**entry, "actions": {"upload": {"href": f"{self.hub.url}/objects/{entry['oid']}"}}}
                for entry in objects
            ]
            self._answer({"transfer": "basic", "objects": actions})
        elif path.endswith("/commit/main"):
            self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
        elif "/paths-info/" in path:
            files = self.hub.repositories[path.removeprefix("/api/models/").split("/paths-info/")[0]]
            wanted = parse_qs(body.decode())["paths"]
            self._answer([self._entry(name, files[name]) for name in wanted if name in files])
        else:
            self._answer({"error": "not here"}, 404)

    def _commit(self, name: str, body: bytes) -> None:
        if name == self.hub.refuses:
            self._answer({"error": "This repository is over its storage limit"}, 403)
            return
        files = self.hub.repositories[name]
        for text in body.decode().splitlines():
            line = json.loads(text)
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        if name == self.hub.loses:
            del files[max(files, key=lambda one: len(files[one]))]
        oid = hashlib.sha1(body).hexdigest()
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    @staticmethod
    def _entry(name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        if _mode(name) == "lfs":
            entry["lfs"] = {"size": len(content), "oid": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
        return entry

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"
