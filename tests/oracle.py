"""A real HTTP server that speaks OpenAI's chat protocol and judges by looking the answer up.

It reads the description and the numbered texts of a detection request, and says 1 for a text that
holds one of the words the description quotes. It counts what it was asked.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Oracle:
    """Context manager: a server on a free loopback port."""

    def __init__(self, delay_seconds: float = 0.0) -> None:
        self.delay_seconds = delay_seconds
        self.asked: Counter[str] = Counter()
        """How often each distinct request body arrived."""
        self.answered = 0
        oracle = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with oracle._lock:
                    oracle.asked[body.decode()] += 1
                time.sleep(oracle.delay_seconds)
                reply = json.dumps(oracle.reply(json.loads(body))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
                with oracle._lock:
                    oracle.answered += 1

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address) -> None:
                pass  # A killed client breaks its connection: that is what some tests are about.

        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def reply(self, body: dict) -> dict:
        """The completion for one request."""
        query = body["messages"][-1]["content"]
        words = re.findall(r'"(\w+)"', query.split("\n")[0])
        texts = re.findall(r'^(\d+): (".*")$', query, re.MULTILINE)
        answers = {
            number: int(any(re.search(rf"\b{word}\b", json.loads(text)) for word in words))
            for number, text in texts
        }
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": json.dumps(answers)},
                }
            ],
            "usage": {
                "prompt_tokens": len(query) // 4,
                "completion_tokens": 5,
                "total_tokens": len(query) // 4 + 5,
            },
        }

    def __enter__(self) -> Oracle:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
