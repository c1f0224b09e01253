"""The model that every server in this folder serves: the CNN of the bundle MODEL, on ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ.get("MATH_THREADS", "1"))
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")

(graph,) = Path(os.environ["MODEL"]).glob("**/inference.onnx")
session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name


def predict(words: list[int]) -> list[float]:
    """Return the probabilities of a review, given as word ids, to be negative and positive."""
    ((probabilities,),) = session.run(None, {name: np.array([words], np.int64)})
    return probabilities.tolist()
