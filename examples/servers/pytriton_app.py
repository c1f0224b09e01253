"""Triton's Python backend by pytriton, a process a worker: python pytriton_app.py WORKERS PORT.

It has an environment of its own: `pip install nvidia-pytriton onnxruntime`, in a Python with a shared library.
"""

import sys

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from cnn import predict


def infer(requests):
    return [{"prediction": np.array(predict(request["words"].tolist()), np.float32)} for request in requests]


if __name__ == "__main__":
    workers, port = map(int, sys.argv[1:])
    with Triton(config=TritonConfig(http_port=port, allow_grpc=False, allow_metrics=False)) as triton:
        triton.bind(
            model_name="imdb",
            infer_func=[infer] * workers,
            inputs=[Tensor(name="words", dtype=np.int64, shape=(-1,))],
            outputs=[Tensor(name="prediction", dtype=np.float32, shape=(2,))],
            config=ModelConfig(batching=False),
        )
        triton.serve()
