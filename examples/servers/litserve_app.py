"""LitServe, a process a worker: python litserve_app.py WORKERS PORT."""

import sys

import litserve


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        from cnn import predict  # here, so that each worker loads the model, and the front does not

        self.classify = predict

    def decode_request(self, request: dict) -> list[int]:
        return request["words"]

    def predict(self, words: list[int]) -> list[float]:
        return self.classify(words)

    def encode_response(self, output: list[float]) -> dict:
        return {"prediction": output}


if __name__ == "__main__":
    workers, port = map(int, sys.argv[1:])
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, log_level="warning", access_log=False, generate_client_file=False)
