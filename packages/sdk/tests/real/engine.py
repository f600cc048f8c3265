"""An engine that says what it serves and does nothing else; started as `dn serve` starts one."""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = [
    {"model_name": "Qwen/Qwen3-8B", "max_context_length": 32768, "trainable": True},
    {"model_name": "stand-in/SmolLM2-135M-Instruct", "max_context_length": 2048, "stand_in": True},
]


class Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"supported_models": MODELS}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def lifeline() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


port = int(sys.argv[sys.argv.index("--port") + 1])
with ThreadingHTTPServer(("127.0.0.1", port), Engine) as server:
    threading.Thread(target=lifeline, daemon=True).start()
    sys.stdout.write(f"engine ready on http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    server.serve_forever()
