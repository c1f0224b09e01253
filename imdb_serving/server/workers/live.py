"""The units that serve at this moment, and their workers' rows. Used by the supervisor's thread alone."""

from __future__ import annotations

from imdb_serving.server.workers.scoreboard import Row
from imdb_serving.server.workers.unit import ProcessUnit, Unit


class LiveUnits:
    """A unit is added once it is ready, and removed when it has ended or hangs."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.rows: list[Row] = []
        """The rows of all their workers."""

    def add(self, unit: Unit) -> None:
        self.units.append(unit)
        self._count()

    def remove(self, unit: Unit) -> None:
        self.units.remove(unit)
        self._count()

    def _count(self) -> None:
        self.rows = [row for unit in self.units for row in unit.rows]

    def at_work(self) -> int:
        """Return how many workers are at work."""
        return sum(row.is_busy for row in self.rows)

    def opened(self, number: int, generation: int) -> None:
        """Tell worker processes of a connection."""
        for unit in self.units:
            if isinstance(unit, ProcessUnit):
                unit.opened(number, generation)

    def closed(self, number: int, generation: int) -> None:
        """Tell them that it is closed."""
        for unit in self.units:
            if isinstance(unit, ProcessUnit):
                unit.closed(number, generation)
