"""Who of a crew's threads leads, and who is parked until called. Knows no request and no front."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any


class Member:
    """A thread of a crew, as the others see it: the task it is at, and how to call it when it is parked."""

    def __init__(self, work: Callable[[Member], None], number: int) -> None:
        self.number = number
        self.task: Any = None
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.retired = False
        self.call = threading.Lock()
        self.call.acquire()
        self.thread = threading.Thread(target=work, args=(self,), name=f"crew-{number}", daemon=True)


class Lead:
    """Held by one member at most; the others park. Who parked last is called first: its caches are warm."""

    def __init__(self) -> None:
        """Nobody leads, nobody is parked."""
        self.holder: Member | None = None
        self.parked: list[Member] = []
        self.is_over = False
        self._turn = threading.Lock()

    def take_or_park(self, member: Member) -> bool:
        """Become the leader if there is none, else park until called; tell whether the member leads now."""
        with self._turn:
            if self.holder is None and not member.retired:
                self.holder = member
                return True
            if self.is_over or member.retired:
                return False
            self.parked.append(member)
        member.call.acquire()
        return self.holder is member

    def pass_on(self, member: Member) -> None:
        """Have a parked member lead instead of this one, or nobody."""
        with self._turn:
            if self.holder is member:
                self.holder = self.parked.pop() if self.parked else None
                if self.holder is not None:
                    self.holder.call.release()

    def call_all(self) -> None:
        """Call all that are parked, and have nobody park any more."""
        with self._turn:
            self.is_over = True
            parked, self.parked = self.parked, []
        for member in parked:
            member.call.release()
