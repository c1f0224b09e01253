"""gRPC, a thread a worker, with the Open Inference Protocol: python grpc_app.py WORKERS ADDRESS."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from cnn import predict

messages, services = grpc.protos_and_services("inference.proto")


class Classifier(services.GRPCInferenceServiceServicer):
    def ModelMetadata(self, request, context):
        words = {"name": "words", "datatype": "INT64", "shape": [1, -1]}
        prediction = {"name": "prediction", "datatype": "FP32", "shape": [1, 2]}
        return messages.ModelMetadataResponse(name=request.name, inputs=[words], outputs=[prediction])

    def ModelInfer(self, request, context):
        if request.raw_input_contents:
            words = np.frombuffer(request.raw_input_contents[0], "<i8").tolist()
        else:
            words = list(request.inputs[0].contents.int64_contents)
        prediction = {
            "name": "prediction",
            "datatype": "FP32",
            "shape": [1, 2],
            "contents": {"fp32_contents": predict(words)},
        }
        return messages.ModelInferResponse(model_name=request.model_name, outputs=[prediction])


server = grpc.server(ThreadPoolExecutor(int(sys.argv[1])))
services.add_GRPCInferenceServiceServicer_to_server(Classifier(), server)
if not server.add_insecure_port(sys.argv[2]):
    sys.exit(f"cannot listen at {sys.argv[2]}")
server.start()
server.wait_for_termination()
