"""A gRPC server of someone else for the tests, with the faults that FAULT names: `... PORT`.

It speaks the Open Inference Protocol by the description in examples/servers. The score comes of the ids' number.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "servers"))
messages, services = grpc.protos_and_services("inference.proto")
FAULTS = set(os.environ.get("FAULT", "").split(","))
SEEN = {"calls": 0}


class Scores(services.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's
        if request.name != "scores":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        inputs = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ("input_ids", "attention_mask")]
        return messages.ModelMetadataResponse(name="scores", inputs=inputs)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        SEEN["calls"] += 1
        later = SEEN["calls"] > 100 and SEEN["calls"] % 10 == 0  # the first answers, and the warm-up's, are sound
        token = dict(context.invocation_metadata()).get("authorization")
        if "token" in FAULTS and token != f"Bearer {os.environ['TOKEN']}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"who are you, {token}?")
        if "sometimes" in FAULTS and later:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        if "hang" in FAULTS:
            time.sleep(60)
        if "die" in FAULTS and later:
            os._exit(3)
        rows, width = request.inputs[1].shape  # the mask's, of which ones count
        if request.raw_input_contents:
            ones = list(request.raw_input_contents[1][::8])
        else:
            ones = list(request.inputs[1].contents.int64_contents)
        lengths = [sum(ones[row * width : (row + 1) * width]) % 97 / 97 for row in range(rows)]
        values = [value for length in lengths for value in (1 - length, length)]
        output = {"name": "scores", "datatype": "FP32", "shape": [rows, 2], "contents": {"fp32_contents": values}}
        return messages.ModelInferResponse(model_name="scores", outputs=[output])


server = grpc.server(ThreadPoolExecutor(8))
services.add_GRPCInferenceServiceServicer_to_server(Scores(), server)
place = f"127.0.0.1:{sys.argv[1]}"
if "tls" in FAULTS:
    text = Path(__file__).with_name("for_tests_only.pem").read_bytes()
    server.add_secure_port(place, grpc.ssl_server_credentials([(text, text)]))
else:
    server.add_insecure_port(place)
server.start()
server.wait_for_termination()
