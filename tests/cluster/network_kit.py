"""Two hosts on one machine: network namespaces with addresses of their own, and a link between them that takes 1 ms.

The kernel's netem delays where it has it. Elsewhere the link is two TUN devices, and a process that hands packets over.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import select
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic

DELAY_SECONDS = 0.001
ADDRESSES = ("10.213.77.1", "10.213.77.2")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def why_not() -> str:
    """Why there can be no such hosts here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "network namespaces need iproute2 and util-linux"
    made = subprocess.run(["ip", "netns", "add", f"probe{os.getpid()}"], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.decode().strip()}"
    ip("netns", "del", f"probe{os.getpid()}")
    return ""


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """The names of two namespaces; each has one of the `ADDRESSES`, and only the link between them."""
    names = (f"one{os.getpid()}", f"two{os.getpid()}")
    link: subprocess.Popen[bytes] | None = None
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        if not _by_netem(names):
            link = _by_hand(names)
        yield names
    finally:
        if link is not None:
            link.kill()
            link.communicate()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _by_netem(names: Sequence[str]) -> bool:
    """Link them by a pair of devices that delay; tell whether the kernel can."""
    ip("link", "add", "eth", "netns", names[0], "type", "veth", "peer", "name", "eth", "netns", names[1])
    for name, address in zip(names, ADDRESSES, strict=True):
        delay = ["tc", "-n", name, "qdisc", "add", "dev", "eth", "root", "netem", "delay", "1ms"]
        if not shutil.which("tc") or subprocess.run(delay, capture_output=True, check=False).returncode:
            ip("-n", names[0], "link", "del", "eth")
            return False
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
        ip("-n", name, "link", "set", "eth", "up")
    return True


def _by_hand(names: Sequence[str]) -> subprocess.Popen[bytes]:
    link = subprocess.Popen([sys.executable, __file__, *names], stdout=subprocess.PIPE)
    assert link.stdout
    assert link.stdout.readline() == b"ready\n"
    for name, address in zip(names, ADDRESSES, strict=True):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth")
        ip("-n", name, "link", "set", "eth", "up")
    return link


def _device(name: str) -> int:
    """Open a TUN device in a namespace, and return its descriptor; this process is there afterwards."""
    with Path(f"/run/netns/{name}").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth", IFF_TUN | IFF_NO_PI))
    return device


def hand_over(names: Sequence[str]) -> None:
    """Hand each packet over to the other side, when its time has come."""
    ends = [_device(name) for name in names]
    print("ready", flush=True)
    to = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: list[tuple[float, int, int, bytes]] = []
    for number in count():
        left = waiting[0][0] - monotonic() if waiting else 1.0
        readable, _, _ = select.select(ends, [], [], max(0.0, left))
        for end in readable:
            heapq.heappush(waiting, (monotonic() + DELAY_SECONDS, number, to[end], os.read(end, 1 << 16)))
        while waiting and waiting[0][0] <= monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            with suppress(OSError):  # the other side is not up yet
                os.write(end, packet)


if __name__ == "__main__":
    hand_over(sys.argv[1:])
