"""The Ray cluster of three nodes that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray_kit import Nodes


@pytest.fixture(scope="module")
def three() -> Iterator[Nodes]:
    """Three nodes with a CPU each."""
    made = Nodes()
    try:
        yield made
    finally:
        made.stop()
