"""A Batch API over real HTTP: files and batches in memory, results made by a Python function."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answered = dict[str, Any] | None
"""A result line without its custom_id: `response` and `error`; None: no line at all."""


def ok(text: str, **usage: int) -> Answered:
    """A request that was answered."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    used = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, **usage}
    body = {"object": "chat.completion", "model": "m", "choices": [choice], "usage": used}
    return {"response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def refused(status: int, message: str) -> Answered:
    """A request that the model's endpoint refused."""
    body = {"error": {"message": message, "code": None}}
    return {"response": {"status_code": status, "request_id": "r", "body": body}, "error": None}


def without_answer(code: str) -> Answered:
    """A request the batch never got to."""
    return {"response": None, "error": {"code": code, "message": "not executed"}}


class BatchServer:
    """Context manager. `answer` gets each request's body; `fail` may answer an HTTP request itself."""

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Answered] | None = None,
        polls: int = 1,
        ends: Callable[[int], dict[str, Any]] | None = None,
        fail: Callable[[str, str, int], tuple[int, Any] | None] | None = None,
    ) -> None:
        self.answer = answer or (lambda body: ok(body["messages"][-1]["content"].upper()))
        self.polls = polls
        """How often a batch is looked at before it ends."""
        self.ends = ends or (lambda number: {"status": "completed"})
        """From the batch's number to what it ends with."""
        self.fail = fail
        self.calls: list[tuple[str, str]] = []
        self.executed: Counter[str] = Counter()
        """How often each request was carried out, by its custom_id."""
        self.lines: list[list[dict[str, Any]]] = []
        """Requests of each batch that was created."""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._looks: Counter[str] = Counter()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.respond(b"")

            def do_POST(self) -> None:
                self.respond(self.rfile.read(int(self.headers["Content-Length"])))

            def respond(self, body: bytes) -> None:
                with server._lock:
                    path = self.path.split("?")[0].removeprefix("/v1")
                    number = sum(call == (self.command, path) for call in server.calls)
                    server.calls.append((self.command, path))
                    made = server.fail(self.command, path, number) if server.fail else None
                    after = made is not None and made[0] < 0
                    if made is None or after:
                        kind = self.headers.get("Content-Type", "")
                        result = server.handle(self.command, path, kind, body)
                        made = result if not after else (-made[0], made[1])
                status, value = made
                if status == 999:  # the connection breaks
                    self.close_connection = True
                    self.connection.close()
                    return
                payload = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def handle(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if method == "POST" and parts == ["files"]:
            return 200, self._file(self.add_file(_uploaded(kind, body)))
        if method == "POST" and parts == ["batches"]:
            return 200, self.create(json.loads(body))
        if parts == ["batches"]:
            newest = list(reversed(self.batches.values()))
            return 200, {"object": "list", "data": newest, "has_more": False}
        if parts[0] == "batches" and parts[1] in self.batches:
            return 200, self.look(parts[1])
        if parts[0] == "files" and parts[1] in self.files:
            return 200, self.files[parts[1]]
        return 404, {"error": {"message": "not found", "code": "not_found"}}

    def add_file(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        name = f"batch-{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].splitlines()]
        assert all(line["url"] == wanted["endpoint"] and line["method"] == "POST" for line in lines)
        self.lines.append(lines)
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": wanted["endpoint"], "errors": None,
            "input_file_id": wanted["input_file_id"], "completion_window": "24h", "status": "in_progress",
            "output_file_id": None, "error_file_id": None, "created_at": 4_000_000_000,
            "metadata": wanted.get("metadata"), "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        return self.batches[name]

    def look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        self._looks[name] += 1
        if batch["status"] == "in_progress" and self._looks[name] > self.polls:
            number = list(self.batches).index(name)
            batch |= self.ends(number)
            if batch["status"] != "failed":
                self.carry_out(batch, self.lines[number])
        return batch

    def carry_out(self, batch: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        good, bad = [], []
        for line in reversed(lines):  # results come in any order
            result = self.answer(line["body"])
            if result is None:
                continue
            answered = result["response"] is not None
            self.executed[line["custom_id"]] += answered
            fine = answered and result["response"]["status_code"] == 200
            (good if fine else bad).append(json.dumps({"id": "x", "custom_id": line["custom_id"], **result}))
        for name, texts in (("output_file_id", good), ("error_file_id", bad)):
            batch[name] = self.add_file("\n".join([*texts, ""]).encode()) if texts else None

    def _file(self, name: str) -> dict[str, Any]:
        return {
            "id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 0,
            "filename": "requests.jsonl", "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def __enter__(self) -> BatchServer:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _uploaded(kind: str, body: bytes) -> bytes:
    """The file of a form."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    for part in message.iter_parts():  # type: ignore[attr-defined]
        if part.get_param("name", header="content-disposition") == "file":
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return content
    raise AssertionError("no file")
