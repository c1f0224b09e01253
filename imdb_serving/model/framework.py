"""Paddle, imported without its remarks to people who compile extensions for it."""

import os
import warnings

os.environ.setdefault("GLOG_minloglevel", "2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    from paddle import inference, nn
    from paddle.nn import functional

# Paddle would answer SIGTERM with a page of C++ frames; ending cleanly is this package's own business.
paddle.disable_signal_handler()

__all__ = ["functional", "inference", "nn", "paddle"]
