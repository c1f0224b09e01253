"""Messages that no client of ours sends: from noise to nearly right ones."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from typing import Any

import http_kit as http
import msgspec
import rpc_kit as kit

pack = msgspec.msgpack.encode
ODD_NUMBERS = [-1, 0, 1, -(1 << 63), (1 << 63) - 1, (1 << 64) - 1, 1 << 31, math.nan, math.inf, -math.inf, 1e308, 0.5]
ODD = [None, True, "", "x" * 5000, b"\xff" * 50, [], {}, [[[]]], {"a": {"b": 1}}, *ODD_NUMBERS]
DTYPES = ["int64", "int32", "float32", "float64", "utf8", "object", "", "int64\0", "<i8"]
KEYS = ["kind", "id", "deadline_ms", "samples", "fetch", "feed"]
TENSOR_KEYS = ["name", "dtype", "shape", "lengths"]


def noise(rng: random.Random) -> list[bytes]:
    """Frames of random bytes."""
    return [rng.randbytes(rng.choice([0, 1, 7, 24, 100, 3000])) for _ in range(rng.randint(1, 6))]


def header_noise(rng: random.Random) -> list[bytes]:
    """The right version, and nonsense behind it."""
    return [kit.VERSION, rng.randbytes(rng.randint(0, 200)), *noise(rng)[: rng.randint(0, 2)]]


def wrong_version(rng: random.Random) -> list[bytes]:
    version = rng.choice([b"", b"imdb-serving/2", b"imdb-serving/1\0", b"HTTP/1.1", kit.VERSION * 3])
    return [version, *kit.raw_message()[1:]]


def truncated(rng: random.Random) -> list[bytes]:
    """A good message of which the end is missing, in a frame or in frames."""
    frames = kit.raw_message(id=rng.randint(0, 99))
    cut = rng.randrange(len(frames))
    return [*frames[:cut], frames[cut][: rng.randrange(len(frames[cut]) + 1)]]


def flipped(rng: random.Random) -> list[bytes]:
    """A good message with some bits wrong."""
    frames = [bytearray(frame) for frame in kit.raw_message(id=rng.randint(0, 99))]
    for _ in range(rng.randint(1, 8)):
        frame = rng.choice(frames)
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
    return [bytes(frame) for frame in frames]


def odd_value(rng: random.Random) -> list[bytes]:
    """A good message with a value in its header that is none."""
    return encoded(rng, **{rng.choice(KEYS): rng.choice(ODD)})


def odd_tensor(rng: random.Random) -> list[bytes]:
    """Types, shapes and lengths that do not fit what follows."""
    tensor: dict[str, Any] = dict(kit.WORDS)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(TENSOR_KEYS)
        shape = [rng.choice([-1, 0, 1, 3, 1 << 31, 1 << 62, 1 << 63]) for _ in range(rng.randint(0, 5))]
        tensor[key] = rng.choice([rng.choice(ODD), rng.choice(DTYPES), shape])
    data = rng.randbytes(rng.choice([0, 1, 8, 64]))
    return [*encoded(rng, feed=[tensor] * rng.randint(1, 3))[:2], *[data] * rng.randint(0, 3)]


def odd_ids(rng: random.Random) -> list[bytes]:
    """Words that no vocabulary has, and labels that are none."""
    words = struct.pack("<q", rng.choice([-1, -(1 << 63), (1 << 63) - 1, 1 << 32]))
    label = {"name": "label", "dtype": "int64", "shape": [1]}
    frames = encoded(rng, feed=[kit.WORDS, label], fetch=["prediction", "acc"])
    return [*frames[:2], words, struct.pack("<q", rng.choice([-1, 2, 1 << 62]))]


def odd_floats(rng: random.Random) -> list[bytes]:
    """Words that are floats, not numbers, or endless."""
    tensor = {"name": "words", "dtype": "float64", "shape": [1], "lengths": [1]}
    return [*encoded(rng, feed=[tensor])[:2], struct.pack("<d", rng.choice([math.nan, math.inf, 1e300, 8.0]))]


def hostile(rng: random.Random) -> list[bytes]:
    """MessagePack that is deep, or says that it is huge."""
    many_keys = pack({"kind": "predict"} | {str(number): number for number in range(500)})
    deep = [b"\x91" * rng.randint(10, 5000) + b"\x90", b"\x81\xa1a" * rng.randint(10, 3000) + b"\x80"]
    huge = [start + b"\xff" * 4 for start in (b"\xdd", b"\xdf", b"\xdb", b"\xc6")]
    cut = [b"\x86\xa4kind\xa7predict\xa2id\xcf" + b"\xff" * 8, b"\xc7\xff\x01" + bytes(255), b"\xc1"]
    return [kit.VERSION, rng.choice([*deep, *huge, *cut, pack({1: 2}), pack([1, 2]), many_keys])]


def huge_lengths(rng: random.Random) -> list[bytes]:
    """A piece whose prefix promises more, or less, than there is."""
    sizes = (rng.choice([0, 1, 1 << 20, (1 << 32) - 1]), rng.choice([0, 7, 1 << 30, (1 << 32) - 1]))
    return [struct.pack("<16sII", kit.VERSION, *sizes) + rng.randbytes(rng.randint(0, 300))]


def many_frames(rng: random.Random) -> list[bytes]:
    """More frames than a message may have, and around there."""
    count = rng.choice([63, 64, 65, 66, 500, 1020, 1030, 3000])
    return [*encoded(rng)[:2], *[rng.choice([b"", kit.ONE_WORD])] * count]


def many_feeds(rng: random.Random) -> list[bytes]:
    """More feeds, or names to fetch, than a request may have, and around there."""
    count = rng.choice([63, 64, 65, 1100])
    if rng.random() < 0.5:
        return encoded(rng, fetch=[f"name{number}" for number in range(count)])
    feed = [{**kit.WORDS, "name": f"name{number}"} for number in range(count)]
    return [*encoded(rng, feed=feed)[:2], *[kit.ONE_WORD] * count]


def good(rng: random.Random) -> list[bytes]:
    return kit.raw_message(id=rng.randint(0, 1 << 40))


def encoded(rng: random.Random, **changes: Any) -> list[bytes]:
    """A prediction with changes, where MessagePack can say them."""
    try:
        return kit.raw_message(**{"id": rng.randint(0, 99), **changes})
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        return kit.raw_message(id=-1)


KINDS: list[Callable[[random.Random], list[bytes]]] = [
    noise, header_noise, wrong_version, truncated, flipped, odd_value, odd_tensor, odd_ids, odd_floats, hostile,
    huge_lengths, many_frames, many_feeds, good,
]  # fmt: skip


def message(rng: random.Random) -> list[bytes]:
    """Any of them, in frames or in one piece."""
    frames = rng.choice(KINDS)(rng)
    return [kit.in_one_piece(frames)] if rng.random() < 0.3 and frames[0] == kit.VERSION else frames


FIELDS = [
    b"Host: x", b"Host: x", b"Host: y", b"Host: a b", b"Connection: upgrade", b"Upgrade: x", b"Upgrade: h2c",
    b"Connection: close", b"Connection: keep-alive, upgrade", b"Expect: 100-continue", b"X-Request-Timeout: 5",
    b"X-Request-Timeout: nan", b"Authorization: Bearer x", b"Content-Type: application/json", b"A:", b"a b: c", b": c",
    b"A: " + b"b" * 5000, b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", b"Content-Length: 5",
]  # fmt: skip
TARGETS = [b"/PaddleServing/v1.0/prediction", b"/health/ready", b"/", b"*", b"//", b"http://x/health/live", b"/%00"]


def http_message(rng: random.Random) -> bytes:
    """A request over HTTP, with upgrades, trailers, chunks and their extensions, and now and then wrong bytes."""
    body = rng.choice([http.BODY, http.BODY, b"{}", b"[" * 200, rng.randbytes(rng.randint(0, 300)), many_names(rng)])
    fields = [b"Host: x"] if rng.random() < 0.9 else []
    fields += rng.sample(FIELDS, rng.choice([0, 0, 0, 1, 2, 4]))
    if rng.random() < 0.5:
        fields.append(b"Content-Type: application/json")
    if rng.random() < 0.5:
        fields.append(b"Transfer-Encoding: chunked")
        body = chunks(rng, body)
    else:
        fields.append(b"Content-Length: %d" % (len(body) + rng.choice([0, 0, 0, 0, 1, -1])))
    start = b"%b %b HTTP/%b" % (
        rng.choice([b"POST", b"POST", b"POST", b"GET", b"HEAD", b"BREW", b"CONNECT"]),
        rng.choice(TARGETS[:1] * 5 + TARGETS),
        rng.choice([b"1.1", b"1.1", b"1.1", b"1.0", b"2.0", b"1.2"]),
    )  # fmt: skip
    data = bytearray(b"\r\n".join([start, *fields, b"", b""]) + body)
    if rng.random() < 0.15:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def many_names(rng: random.Random) -> bytes:
    """A body of more names than a request may have, or around there."""
    names = {f"name{number}": [1] for number in range(rng.choice([63, 65, 1100]))}
    encoded_body: bytes = msgspec.json.encode({**names, "fetch": ["prediction"]})
    return encoded_body


def chunks(rng: random.Random, body: bytes) -> bytes:
    """A chunked body, with extensions and trailers."""
    data, step = b"", rng.choice([1, 7, 100_000])
    for begin in range(0, len(body), step):
        part = body[begin : begin + step]
        data += b"%x%b\r\n%b\r\n" % (len(part), rng.choice([b"", b"", b";a=b", b";" + b"c" * 500]), part)
    trailers = [b"X-Request-Timeout: 0", b"Host: z", b"a:", b"Content-Type: text/plain", b"d: " + b"e" * 2000]
    behind = b"".join(each + b"\r\n" for each in rng.sample(trailers, rng.choice([0, 0, 1, 3])))
    return data + b"0\r\n" + behind * rng.choice([1, 1, 1, 60]) + b"\r\n"
