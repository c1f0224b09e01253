"""Between two hosts with a millisecond between them and clocks of their own: who is reached, and what stages say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import far_server
import network_kit
import pytest
from network_kit import ADDRESSES

from imdb_serving.cli.preparing import make_keys
from imdb_serving.server.rpc.curve import make_key_pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(network_kit.why_not()), reason=network_kit.why_not() or "-"),
]
_, THERE = ADDRESSES
AHEAD_SECONDS = 4321
ASK = """
import json, sys
from pathlib import Path
from imdb_serving.protocol.requests import make_request
from imdb_serving.clients.connect import connect
from imdb_serving.protocol import json_bodies
from imdb_serving.keys import Credentials

endpoint, ahead, *keys = sys.argv[1:]
found = []
with connect(endpoint, 5.0, credentials=Credentials(*map(Path, keys))) as client:
    for _ in range(60):
        reply = client.call(make_request(({"words": [1, 2, 3]},), ("prediction",)))
        stages, record = {stage.name: stage for stage in reply.stages}, reply.record
        answer = getattr(record, "answer", None)
        server, clock = (answer.stages(), answer.clock) if answer else json_bodies.parse_timing(record.timing)
        arrived, left = (stamp - int(ahead) * 10**9 for stamp in (server[0].start_ns, server[-1].end_ns))
        send, back = stages["send"], stages["reply"]
        found.append({
            "send": send.end_ns - send.start_ns, "true_send": arrived - send.start_ns,
            "reply": back.end_ns - back.start_ns, "true_reply": back.end_ns - left,
            "bound": reply.clock_bound_ns,
        })
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, str]]:
    with network_kit.two_hosts() as names:
        yield names


def on(host: str, *command: str, ahead: int = 0) -> list[str]:
    """A command on one of the hosts, whose clock may be ahead."""
    clock = ["unshare", "--time", "--monotonic", str(ahead), "--fork", "--kill-child"] if ahead else []
    return ["ip", "netns", "exec", host, *clock, sys.executable, *command]


def serving(host: str, *arguments: str) -> AbstractContextManager[str]:
    """The endpoint of a server on a host, whose clock is ahead."""
    return far_server.serving(on(host, "-m", "imdb_serving", *arguments, ahead=AHEAD_SECONDS))


def ask(host: str, endpoint: str, *keys: Path) -> subprocess.CompletedProcess[str]:
    command = on(host, "-c", ASK, endpoint, str(AHEAD_SECONDS), *map(str, keys))
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def packets(host: str) -> int:
    """How many packets have arrived at a host."""
    shown = subprocess.run(["ip", "-n", host, "-s", "-j", "link", "show", "eth"], capture_output=True, check=True)
    return int(json.loads(shown.stdout)[0]["stats64"]["rx"]["packets"])


@pytest.mark.parametrize("command", [
    ("serve", "--host", THERE, "--port", "0"),
    ("serve", "--endpoint", f"socket://{THERE}:0"),
    ("flask", "--host", THERE, "--port", "0"),
])  # fmt: skip
def test_requests_cross_the_network_and_their_journeys_are_within_their_bounds_of_the_truth(
    hosts: tuple[str, str], command: tuple[str, ...]
) -> None:
    with serving(hosts[1], *command) as endpoint:
        assert THERE in endpoint
        before = packets(hosts[1])
        done = ask(hosts[0], endpoint)
        assert done.returncode == 0, done.stderr
        assert packets(hosts[1]) >= before + 60
    for one in json.loads(done.stdout):
        assert one["true_send"] >= 1_000_000  # the clocks of both hosts are known here, and so is the truth
        assert one["true_reply"] >= 1_000_000
        assert abs(one["send"] - one["true_send"]) <= one["bound"]
        assert abs(one["reply"] - one["true_reply"]) <= one["bound"]
        assert one["bound"] >= 1_000_000  # half of two milliseconds, whatever one does


def test_a_host_is_not_reached_at_ones_own_loopback(hosts: tuple[str, str]) -> None:
    with serving(hosts[1], "serve", "--host", THERE, "--port", "0") as endpoint:
        done = ask(hosts[0], endpoint.replace(THERE, "127.0.0.1"))
        assert done.returncode != 0
        assert "no server answers" in done.stderr


def test_curve_works_across_the_network_and_lets_nobody_else_in(hosts: tuple[str, str], tmp_path: Path) -> None:
    make_keys(tmp_path, ("mine",))
    make_key_pair(tmp_path, "stranger")
    keys = ("--server-key", str(tmp_path / "server.key_secret"), "--client-keys", str(tmp_path / "clients"))
    with serving(hosts[1], "serve", "--host", THERE, "--port", "0", *keys) as endpoint:
        done = ask(hosts[0], endpoint, tmp_path / "mine.key_secret", tmp_path / "server.key")
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == 60
        refused = ask(hosts[0], endpoint, tmp_path / "stranger.key_secret", tmp_path / "server.key")
        assert refused.returncode != 0
        assert "Unauthorized" in refused.stderr
