"""Which files belong to the project, for a user may have made others beside them; and the blocks of its documents."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


def own_files(pattern: str) -> list[Path]:
    """The files that match, in order: those that git has; all of them outside a repository."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--", f":(glob){pattern}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return sorted(ROOT.glob(pattern))
    return sorted(ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file())


BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it stands, its language and its text."""

    page: str
    number: int
    language: str
    text: str


def blocks(*pages: Path) -> Iterator[Block]:
    """The fenced blocks of pages, in order."""
    for page in pages:
        for number, (language, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            yield Block(page.name, number, language, text)


def steps(block: Block) -> list[str]:
    """The commands of a block, one each, without remarks and with continued lines joined."""
    lines = [re.sub(r"\s+#.*", "", line) for line in block.text.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in lines if line.strip()]
