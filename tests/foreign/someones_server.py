"""A server of someone else for the tests: the standard library's, with the faults that FAULT names. `... PORT`."""

from __future__ import annotations

import json
import os
import random
import ssl
import struct
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = set(os.environ.get("FAULT", "").split(","))
SEEN = {"posts": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_words: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def infer(self, body: bytes) -> None:
        """The Open Inference Protocol v2, JSON or binary: a score from the length of a text, or of the ids."""
        length = self.headers["Inference-Header-Content-Length"]
        given = json.loads(body[: int(length)] if length else body)
        at, sizes = int(length or 0), []
        for tensor in given["inputs"]:
            if not length:
                rows, data = tensor["shape"][0], tensor["data"]
                each = len(data) // rows
                parts = [data[row * each : (row + 1) * each] for row in range(rows)]
            else:
                part = body[at : at + tensor["parameters"]["binary_data_size"]]
                at += len(part)
                if tensor["datatype"] == "BYTES":
                    parts = [[part[4:].decode()]]  # one text
                else:
                    values = struct.unpack(f"<{len(part) // 8}q", part)
                    each = len(values) // tensor["shape"][0]
                    parts = [values[row * each : (row + 1) * each] for row in range(tensor["shape"][0])]
            sizes.append([len(part[0]) if isinstance(part[0], str) else sum(map(bool, part)) for part in parts])
        scores = [value for size in sizes[0] for value in (1 - size % 97 / 97, size % 97 / 97)]
        output = {"name": "scores", "datatype": "FP64", "shape": [len(sizes[0]), 2]}
        if not length:
            self.answer(200, json.dumps({"outputs": [{**output, "data": scores}]}).encode())
            return
        data = struct.pack(f"<{len(scores)}d", *scores)
        head = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": len(data)}}]}).encode()
        self.answer(200, head + data, **{"Inference-Header-Content-Length": str(len(head))})

    def do_GET(self) -> None:
        if self.path == "/v2/models/scores":
            kinds = {"texts": ("BYTES", [-1]), "words": ("INT64", [-1, -1])}
            inputs = [{"name": n, "datatype": t, "shape": s} for n, (t, s) in kinds.items() if n in FAULTS]
            inputs += [{"name": "attention_mask", "datatype": "INT64", "shape": [-1, -1]}] * ("words" in FAULTS)
            self.answer(200, json.dumps({"name": "scores", "inputs": inputs, "outputs": []}).encode())
            return
        self.answer(200 if self.path == "/health" else 404, b"{}")

    def do_POST(self) -> None:  # noqa: C901 - one branch a fault
        if self.path.startswith("http://"):  # asked as a proxy, whose client names the whole address
            self.headers["X-Proxied"] = self.path
        SEEN["posts"] += 1
        later = SEEN["posts"] > 100  # the first answers, and the warm-up's, are sound
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v2/models/scores/infer":
            self.infer(body)
        elif "token" in FAULTS and self.headers["Authorization"] != f"Bearer {os.environ['TOKEN']}":
            self.answer(401, b'{"error": "who are you, %s?"}' % (self.headers["Authorization"] or "").encode())
        elif "redirect" in FAULTS:
            self.answer(307, b"", Location="/elsewhere")
        elif "refuse" in FAULTS or ("sometimes" in FAULTS and later and SEEN["posts"] % 10 == 0):
            self.answer(429, b"too many")
        elif "text" in FAULTS or ("garbled" in FAULTS and later and SEEN["posts"] % 10 == 5):
            self.answer(200, b"<html>hello</html>")
        elif "hang" in FAULTS:
            time.sleep(60)
        elif "close" in FAULTS and later and SEEN["posts"] % 20 == 0:
            self.close_connection = True
        else:
            given = json.loads(body)
            texts = given["texts"] if "texts" in given else [given["text"]]
            scores = [[1 - len(text) % 97 / 97, len(text) % 97 / 97] for text in texts]
            if "proxy" in FAULTS:
                scores = [[0.0, 0.25 if self.headers["X-Proxied"] else 1.0] for _ in scores]
            if "random" in FAULTS:
                scores = [[0.0, random.random()] for _ in scores]
            self.answer(200, json.dumps({"scores": scores if "texts" in given else scores[0]}).encode())


if "children" in FAULTS:  # one that leaves the group, as daemons do, and does not mind SIGTERM
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code, "childofaserver"], start_new_session=True)
if "tell" in FAULTS:
    print("my token is", os.environ["TOKEN"], flush=True)
if "die" in FAULTS:
    sys.exit("no such model: I end")
if "deaf" in FAULTS:
    time.sleep(600)
if "late" in FAULTS:
    time.sleep(1.0)
ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer.request_queue_size = 64
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if "tls" in FAULTS:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("for_tests_only.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
