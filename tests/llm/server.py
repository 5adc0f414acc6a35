"""A real HTTP server for the tests, each request answered by a Python function."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class Answer:
    """What the server sends: a JSON body or raw bytes, after a while."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    raw: bytes | None = None
    drop: bool = False
    """Close the connection without a word."""


Handle = Callable[[str, dict[str, Any], int], Answer]
"""From (path, JSON body, number of the request from 0) to the answer."""


def chat(text: str, **more: Any) -> Answer:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more}
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    return Answer(body={"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


def failure(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    """An error of the protocol."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"message": message, "type": "error", "code": code, "param": None}
    return Answer(body={"error": error}, status=status, headers=named)


@dataclass
class Served:
    """A running server and what it was asked."""

    url: str
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0


@contextmanager
def serve(handle: Handle, port: int = 0) -> Iterator[Served]:
    """A server on a loopback port, a free one unless told."""
    lock = threading.Lock()
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_GET(self) -> None:
            self.respond({})

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: dict[str, Any]) -> None:
            with lock:
                number = len(served.calls)
                served.calls.append((self.path, body))
                served.headers.append({name.lower(): value for name, value in self.headers.items()})
                served.at_once += 1
                served.most_at_once = max(served.most_at_once, served.at_once)
            try:
                answer = handle(self.path, body, number)
                time.sleep(answer.delay_seconds)
            finally:
                with lock:
                    served.at_once -= 1
            self.close_connection = self.close_connection or answer.drop
            if answer.drop:
                return
            payload = json.dumps(answer.body).encode() if answer.raw is None else answer.raw
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *arguments: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    served = Served(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
