"""mosec, a process a worker: python mosec_app.py WORKERS --port 8000. It answers at /inference."""

import sys

from mosec import Server, Worker

from cnn import predict


class Classifier(Worker):
    def forward(self, data: dict) -> dict:
        return {"prediction": predict(data["words"])}


if __name__ == "__main__":
    workers = int(sys.argv.pop(1))  # mosec reads the other arguments itself
    server = Server()
    server.append_worker(Classifier, num=workers)
    server.run()
