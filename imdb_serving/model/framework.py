"""Paddle, imported without its remarks to people who compile extensions for it."""

import os
import warnings

os.environ.setdefault("GLOG_minloglevel", "2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    from paddle import inference, nn
    from paddle.nn import functional

__all__ = ["functional", "inference", "nn", "paddle"]
