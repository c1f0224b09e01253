"""`imdb-serving doctor`: the environment card, and what is wrong with this machine for measuring."""

from __future__ import annotations

from typing import Any

from imdb_serving.bench.analysis.advice import advise
from imdb_serving.bench.record.environment import environment_card
from imdb_serving.bench.record.machine import present_state
from imdb_serving.bench.runs.models import bundle_there
from imdb_serving.config import project_root


def run_doctor(net: str) -> None:
    """Print the card and the advice."""
    card = environment_card(bundle_there(project_root() / "outputs" / "models" / net))
    for name, value in _plain(card).items():
        print(f"{name:<18}{value}")
    found = advise(card, present_state())
    print()
    print(f"{len(found)} things make measurements here worse:" if found else "Nothing is wrong with this machine.")
    for advice in found:
        print(f"- {advice.problem}\n    {advice.remedy}")


def _plain(card: dict[str, Any]) -> dict[str, str]:
    """Return a card's entries as one line each; what it does not know is left out."""
    lines = {}
    for name, value in card.items():
        if name == "packages":
            lines[name] = ", ".join(f"{package} {version}" for package, version in value.items() if version)
        elif name == "engines":
            found = [f"{engine} {what['variant']}".strip() for engine, what in value.items()]
            lines["kernels chosen"] = ", ".join(found) or "none yet"
        elif value not in ("", None):
            lines[name.replace("_", " ")] = str(value)
    return lines
