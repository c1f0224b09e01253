"""Requests framed rightly and wrongly, and what RFC 9112 (or 9110) has a server do with each.

A case is sent with a good request behind it. `statuses` are those of all answers: one for the case and one for the
request behind it, or one alone where the connection must end. A set of them means that the RFC leaves a choice.
"""

from __future__ import annotations

from typing import NamedTuple

BODY = b'{"words":[8,233,52],"fetch":["prediction"]}'
PATH = b"/PaddleServing/v1.0/prediction"
PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
SIZE = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
ONE_CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"

READ = [200, 200]
OR_501 = {400, 501}


class Framing(NamedTuple):
    """A request's bytes, the statuses of the answers, and the paragraph that says so."""

    name: str
    data: bytes
    statuses: list[int | set[int]]
    source: str


def head(*lines: bytes, start: bytes = b"POST " + PATH + b" HTTP/1.1", host: bytes = b"Host: x") -> bytes:
    """A request's head; an empty `host` leaves it out."""
    return b"\r\n".join([start, *([host] if host else []), b"Content-Type: application/json", *lines, b"", b""])


def chunked(*parts: bytes) -> bytes:
    return head(CHUNKED) + b"".join(parts)


def on(version: bytes) -> bytes:
    return b"POST " + PATH + b" HTTP/" + version


UPGRADE = (b"Connection: upgrade", b"Upgrade: x")
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
LIVE = b"GET /health/live HTTP/1.1"

FRAMINGS = [
    # A body and its length (RFC 9112, 6)
    Framing("content-length", head(SIZE) + BODY, READ, "9112 6.2"),
    Framing("length with spaces around it", head(SIZE.replace(b": ", b":  \t") + b" \t") + BODY, READ, "9110 5.5"),
    Framing("length of leading zeros", head(SIZE.replace(b": ", b": 000")) + BODY, READ, "9110 8.6"),
    Framing("no length, no body", head(start=LIVE), READ, "9112 6.3"),
    Framing("a body behind GET", head(SIZE, start=LIVE) + BODY, READ, "9110 9.3.1"),
    Framing("length +n", head(SIZE.replace(b": ", b": +")) + BODY, [400], "9112 6.3"),
    Framing("length -1", head(b"Content-Length: -1") + BODY, [400], "9112 6.3"),
    Framing("length in hexadecimal", head(b"Content-Length: 0x2b") + BODY, [400], "9112 6.3"),
    Framing("length with a space within", head(b"Content-Length: 4 3") + BODY, [400], "9112 6.3"),
    Framing("length that is a fraction", head(b"Content-Length: 43.0") + BODY, [400], "9112 6.3"),
    Framing("no number as length", head(b"Content-Length: ") + BODY, [400], "9112 6.3"),
    Framing("length beyond 64 bits", head(b"Content-Length: 99999999999999999999") + BODY, [{400, 413}], "9110 8.6"),
    Framing("length beyond the limit", head(b"Content-Length: 999999999"), [413], "9110 15.5.14"),
    Framing("two unlike lengths", head(b"Content-Length: 3", SIZE) + BODY, [400], "9112 6.3"),
    Framing("two unlike lengths in a list", head(b"Content-Length: 43, 3") + BODY, [400], "9112 6.3"),
    Framing("two equal lengths, which may be refused", head(SIZE, SIZE) + BODY, [400], "9112 6.3"),
    Framing("length and chunks", head(SIZE, CHUNKED) + ONE_CHUNK + b"0\r\n\r\n", [400], "9112 6.1"),
    Framing("chunks and length", head(CHUNKED, SIZE) + ONE_CHUNK + b"0\r\n\r\n", [400], "9112 6.1"),
    # Transfer codings (6.1, 7)
    Framing("one chunk", chunked(ONE_CHUNK, b"0\r\n\r\n"), READ, "9112 7.1"),
    Framing("two chunks", chunked(b"9\r\n%b\r\n22\r\n%b\r\n0\r\n\r\n" % (BODY[:9], BODY[9:])), READ, "9112 7.1"),
    Framing("Chunked in capitals",
            head(CHUNKED.replace(b"chunked", b"CHUNKED")) + ONE_CHUNK + b"0\r\n\r\n", READ, "9112 7"),
    Framing("chunk size of leading zeros", chunked(b"000", ONE_CHUNK, b"000\r\n\r\n"), READ, "9112 7.1"),
    Framing("chunk extensions",
            chunked(ONE_CHUNK.replace(b"\r\n", b';a="b;c";d\r\n', 1), b"0;e=f\r\n\r\n"), READ, "9112 7.1.1"),
    Framing("trailers", chunked(ONE_CHUNK, b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"), READ, "9112 7.1.2"),
    Framing("a trailer that would be a header",
            chunked(ONE_CHUNK, b"0\r\nX-Request-Timeout: bad\r\n\r\n"), READ, "9110 6.5.1"),
    Framing("a trailer Content-Type", chunked(ONE_CHUNK, b"0\r\nContent-Type: text/plain\r\n\r\n"), READ, "9110 6.5.1"),
    Framing("a trailer Content-Length", chunked(ONE_CHUNK, b"0\r\nContent-Length: 1\r\n\r\n"), [400], "9110 6.5.1"),
    Framing("chunk size -1", chunked(b"-1\r\n"), [400], "9112 7.1"),
    Framing("chunk size 0x2b", chunked(b"0x", ONE_CHUNK, b"0\r\n\r\n"), [400], "9112 7.1"),
    Framing("chunk size of another alphabet", chunked(b"zz\r\n"), [400], "9112 7.1"),
    Framing("chunk size beyond 64 bits", chunked(b"f" * 17 + b"\r\n"), [{400, 413}], "9112 7.1"),
    Framing("chunk longer than said", chunked(b"3\r\n", BODY, b"\r\n0\r\n\r\n"), [400], "9112 7.1"),
    Framing("chunk without its end of line", chunked(ONE_CHUNK[:-2], b"0\r\n\r\n"), [400], "9112 7.1"),
    Framing("chunk lines of LF alone", chunked(ONE_CHUNK.replace(b"\r\n", b"\n"), b"0\n\n"), [400], "9112 2.2"),
    Framing("a space before the chunk size", chunked(b" ", ONE_CHUNK, b"0\r\n\r\n"), [400], "9112 7.1"),
    Framing("coding gzip", head(b"Transfer-Encoding: gzip") + BODY, [OR_501], "9112 6.1"),
    Framing("codings gzip, chunked", head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", [OR_501], "9112 6.1"),
    Framing("codings in two fields", head(b"Transfer-Encoding: gzip", CHUNKED) + b"0\r\n\r\n", [OR_501], "9112 6.1"),
    Framing("chunked is not the last", head(CHUNKED, b"Transfer-Encoding: gzip") + b"0\r\n\r\n", [OR_501], "9112 6.3"),
    Framing("chunked twice", head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", [OR_501], "9112 6.1"),
    Framing("coding identity", head(b"Transfer-Encoding: identity", SIZE) + BODY, [OR_501], "9112 6.1"),
    Framing("coding xchunked", head(b"Transfer-Encoding: xchunked") + ONE_CHUNK + b"0\r\n\r\n", [OR_501], "9112 6.1"),
    Framing("no coding", head(b"Transfer-Encoding: ") + ONE_CHUNK + b"0\r\n\r\n", [OR_501], "9112 6.1"),
    Framing("chunks on HTTP/1.0", head(CHUNKED, start=on(b"1.0")) + ONE_CHUNK + b"0\r\n\r\n", [400], "9112 6.1"),
    # Hosts, section 3.2 there
    Framing("no Host", head(SIZE, host=b"") + BODY, [400], "9112 3.2"),
    Framing("two Hosts", head(b"Host: y", SIZE) + BODY, [400], "9112 3.2"),
    Framing("two equal Hosts", head(b"Host: x", SIZE) + BODY, [400], "9112 3.2"),
    Framing("Host that is none", head(SIZE, host=b"Host: a b") + BODY, [400], "9112 3.2"),
    Framing("Host with a path", head(SIZE, host=b"Host: x/y") + BODY, [400], "9112 3.2"),
    Framing("Host of nothing", head(SIZE, host=b"Host:") + BODY, READ, "9112 3.2"),
    Framing("Host of version 6", head(SIZE, host=b"Host: [::1]:80") + BODY, READ, "9112 3.2"),
    Framing("no Host on HTTP/1.0", head(SIZE, start=on(b"1.0"), host=b"") + BODY, [200], "9112 3.2"),
    Framing("two Hosts on HTTP/1.0", head(b"Host: y", SIZE, start=on(b"1.0")) + BODY, [400], "9112 3.2"),
    # Offers of another protocol (9110, 7.8)
    Framing("upgrade and a body", head(*UPGRADE, SIZE) + BODY, READ, "9110 7.8"),
    Framing("upgrade and a body that is a request",
            head(*UPGRADE, b"Content-Length: %d" % len(HIDDEN)) + HIDDEN, [400, 200], "9110 7.8"),
    Framing("upgrade and chunks", head(*UPGRADE, CHUNKED) + ONE_CHUNK + b"0\r\n\r\n", READ, "9110 7.8"),
    Framing("upgrade to h2c", head(*H2C, SIZE) + BODY, READ, "9110 7.8"),
    Framing("upgrade without a body", head(*H2C, start=LIVE), READ, "9110 7.8"),
    Framing("upgrade and close", head(b"Connection: close, upgrade", b"Upgrade: x", SIZE) + BODY, [200], "9112 9.3"),
    Framing("upgrade on HTTP/1.0", head(*UPGRADE, SIZE, start=on(b"1.0")) + BODY, [200], "9110 7.8"),
    Framing("upgrade and two lengths", head(*UPGRADE, SIZE, b"Content-Length: 3") + BODY, [400], "9112 6.3"),
    Framing("upgrade of many, pipelined", head(*UPGRADE, start=LIVE) * 300, [200] * 301, "9110 7.8"),
    Framing("CONNECT", b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", [{400, 405, 501}], "9110 9.3.6"),
    Framing("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [{400, 505}], "9113 3.4"),
    # Lines, sections 2, 3 and 5 there
    Framing("empty lines before", b"\r\n\r\n" + head(SIZE) + BODY, READ, "9112 2.2"),
    Framing("LF alone", (head(SIZE).replace(b"\r\n", b"\n")) + BODY, [{200, 400}], "9112 2.2"),
    Framing("CR within a value", head(b"A: b\rc", SIZE) + BODY, [400], "9112 2.2"),
    Framing("NUL within a value", head(b"A: b\0c", SIZE) + BODY, [400], "9110 5.5"),
    Framing("a folded line", head(b"A: b\r\n c", SIZE) + BODY, [{200, 400}], "9112 5.2"),
    Framing("a first line that begins with a space",
            head(SIZE).replace(b"\r\nHost", b"\r\n Host") + BODY, [400], "9112 2.2"),
    Framing("a space before the colon", head(SIZE.replace(b":", b" :")) + BODY, [400], "9112 5.1"),
    Framing("a name that is none", head(b"A b: c", SIZE) + BODY, [400], "9110 5.1"),
    Framing("no name", head(b": c", SIZE) + BODY, [400], "9110 5.1"),
    Framing("no colon", head(b"A", SIZE) + BODY, [400], "9112 5"),
    Framing("a method that is not known", head(start=b"BREW / HTTP/1.1"), [{405, 501}], "9110 9.1"),
    Framing("a method in small letters",
            head(SIZE, start=b"post " + PATH + b" HTTP/1.1") + BODY, [{400, 405, 501}], "9110 9.1"),
    Framing("HTTP/2.0", head(SIZE, start=on(b"2.0")) + BODY, [{400, 505}], "9110 15.6.6"),
    Framing("HTTP/0.9", b"GET /health/live\r\n\r\n", [{400, 505}], "9110 15.6.6"),
    Framing("http in small letters", head(SIZE, start=b"POST " + PATH + b" http/1.1") + BODY, [400], "9112 2.3"),
    Framing("a target with a space", head(SIZE, start=b"POST /a b HTTP/1.1") + BODY, [400], "9112 3.2"),
    Framing("an absolute target", head(SIZE, start=b"POST http://y" + PATH + b" HTTP/1.1") + BODY, READ, "9112 3.2.2"),
    Framing("the target *", head(start=b"OPTIONS * HTTP/1.1"), [{200, 204, 404, 405}, 200], "9112 3.2.4"),
    # Connections, section 9 there
    Framing("close", head(b"Connection: close", SIZE) + BODY, [200], "9112 9.6"),
    Framing("close in capitals, in a list", head(b"Connection: a, CLOSE", SIZE) + BODY, [200], "9112 9.6"),
    Framing("HTTP/1.0", head(SIZE, start=on(b"1.0")) + BODY, [200], "9112 9.3"),
    Framing("HTTP/1.0 kept", head(b"Connection: keep-alive", SIZE, start=on(b"1.0")) + BODY, READ, "9112 9.3"),
    Framing("two, pipelined", head(SIZE) + BODY + head(SIZE) + BODY, [200, 200, 200], "9112 9.3.2"),
    # Expectations (9110, 10.1.1): the body follows at once
    Framing("expect 100-continue", head(b"Expect: 100-continue", SIZE) + BODY, READ, "9110 10.1.1"),
    Framing("expect on HTTP/1.0", head(b"Expect: 100-continue", SIZE, start=on(b"1.0")) + BODY, [200], "9110 10.1.1"),
]  # fmt: skip


def statuses(said: bytes) -> list[int]:
    """The statuses of all final answers in what a server said, each taken off by its length."""
    found = []
    while said:
        start, _, rest = said.partition(b"\r\n\r\n")
        status = int(start.split(b" ", 2)[1])
        fields = dict(line.lower().split(b":", 1) for line in start.split(b"\r\n")[1:])
        said = rest[int(fields.get(b"content-length", b"0")) :]
        if status >= 200:
            found.append(status)
    return found


def agrees(found: list[int], expected: list[int | set[int]]) -> bool:
    """True when these statuses are among those that are right."""
    return len(found) == len(expected) and all(
        one in right if isinstance(right, set) else one == right for one, right in zip(found, expected, strict=True)
    )
