"""Paddle, imported without its remarks to people who compile extensions for it."""

import logging
import os
import warnings

os.environ.setdefault("GLOG_minloglevel", "2")
_root = logging.getLogger()
_level, _handlers = _root.level, list(_root.handlers)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    from paddle import inference, nn
    from paddle.nn import functional

# Importing Paddle sets up logging for the whole process; that is the user's to decide.
_root.setLevel(_level)
_root.handlers[:] = _handlers
# Paddle would answer SIGTERM with a page of C++ frames; ending cleanly is this package's own business.
paddle.disable_signal_handler()

__all__ = ["functional", "inference", "nn", "paddle"]
