"""The CNN as it is trained gives what Paddle's own convolution and maximum give, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from imdb_serving.model import nets
from imdb_serving.model.nets import pad, paddle

WORDS = 50


@pytest.mark.parametrize("lengths", [[1], [2, 1], [5, 3, 4], [40, 33, 1, 17]])
def test_the_gradient_is_that_of_the_convolution_and_the_maximum(lengths: list[int]) -> None:
    random = np.random.default_rng(len(lengths))
    feed = pad([random.integers(0, WORDS, length) for length in lengths], WORDS + 1)
    mask = paddle.to_tensor(feed.mask)
    scale = paddle.to_tensor(random.normal(size=(len(lengths), nets.HIDDEN)).astype(np.float32))
    paddle.seed(3)
    net = nets.Cnn(WORDS)
    vectors = net.embedding(paddle.to_tensor(feed.words)).detach()
    vectors.stop_gradient = False

    def theirs() -> Any:
        return nets._pool_over_time(net.convolution(vectors.transpose([0, 2, 1])), mask)

    def results(pooled: Callable[[], Any]) -> list[Any]:
        found = pooled()
        (found * scale).sum().backward()
        leaves = [vectors, net.convolution.weight, net.convolution.bias]
        grads = [leaf.grad.numpy().copy() for leaf in leaves]
        for leaf in leaves:
            leaf.clear_gradient()
        return [found.numpy(), *grads]

    for wanted, found in zip(results(theirs), results(lambda: net.pooled(vectors, mask)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
