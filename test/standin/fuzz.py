"""Answers with mistakes in them, as many as there are numbers.

The same number always makes the same mistakes.  What is broken is the wire,
not the meaning: the answer to begin with says "forbidden", and no mistake of
these can turn it into "deleted".
"""

import random
import struct

import flood

# What parsers of HTTP/1 stumble over, put in the place of a line's beginning
# or of some bytes.
LINES = (
    b" folded\r\n", b"\tfolded\r\n", b" \r\n", b"\r\n", b"\n", b"\r\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n a: b\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n y\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    b"HTTP/1.1 403\r\n", b"HTTP/2 403\r\n", b"HTTP/1.0 403 X\r\n",
    b"HTTP/0.9\r\n", b"ICY 403 OK\r\n", b":\r\n", b": empty\r\n",
    b"no colon\r\n", b"X\0Y: z\r\n", b"X: \0\r\n", b"X: " + b"y" * 5000 + b"\r\n",
    b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 7, 8\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: gzip, gzip, gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Keep-Alive: timeout=0\r\n",
    b"Content-Encoding: gzip\r\n", b"Location: //\r\n", b"Set-Cookie: a=b\r\n",
    b"Alt-Svc: h3=\":1\"\r\n", b"WWW-Authenticate: Digest\r\n",
    b"WWW-Authenticate: Negotiate x\r\n", b"Proxy-Authenticate: Basic\r\n",
    b"Strict-Transport-Security: max-age=1\r\n", b"Retry-After: 1\r\n",
    b"Content-Range: bytes 1-2/3\r\n", b"Upgrade: h2c\r\n",
    b"Last-Modified: never\r\n", b"Trailer: x\r\n",
)

CHUNKED = (
    b"0\r\n\r\n", b"0\r\n folded: trailer\r\n\r\n", b"0\r\nX: y\r\n z\r\n\r\n",
    b"0\r\nX\r\n\r\n", b"0\r\n\r\nmore", b"FFFFFFFFFFFFFFFF\r\nx",
    b"8000000000000000\r\nx", b"g\r\n", b"-1\r\nx\r\n", b"1;a=b\r\nx\r\n0\r\n\r\n",
    b"00000000000000000000001\r\nx\r\n", b"1\r\nxy", b"1\nx\n0\n\n", b"\r\n",
)


def ends(number):
    """Does the connection end behind it?"""
    return number % 3 == 0


def _cut(data, dice):
    """In pieces, which arrive one by one or all at once."""
    at = 0
    while at < len(data):
        size = dice.choice((1, 3, 17, 300, len(data)))
        yield data[at:at + size]
        at += size


def _with_noise(data, dice):
    """Some bytes changed, lost or doubled."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(data))
        end = at + dice.choice((1, 1, 2, 8))
        what = dice.randrange(4)
        if what == 0:
            data[at] = dice.randrange(256)
        elif what == 1:
            del data[at:end]
        elif what == 2:
            data[at:at] = data[at:end]
        else:
            data[at] ^= 1 << dice.randrange(8)
        if not data:
            data = bytearray(b"\n")
    return bytes(data)


def http1(answer, number):
    dice = random.Random(number)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line + b"\r\n" for line in head.split(b"\r\n")]
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        lines.insert(dice.choice((0, 1, 1, len(lines))), dice.choice(LINES))
    if dice.randrange(4) == 0:
        lines = [line for line in lines
                 if not line.startswith(b"Content-Length")]
        lines.append(b"Transfer-Encoding: chunked\r\n")
        body = b"%x\r\n%b\r\n" % (len(body), body) + dice.choice(CHUNKED)
    data = b"".join(lines) + b"\r\n" + body
    if dice.randrange(3) == 0:
        data = _with_noise(data, dice)
    return _cut(data, dice)


def _some_frame(stream, dice):
    kind = dice.randrange(12)
    payload = dice.choice((
        b"", b"\0", bytes(4), b"\0\0\0\1", bytes(5), bytes(6), b"12345678",
        b"\x88", b"\x48\x03100", b"\x88\x00\x04 x: \x01y", b"\x82\x84\x87",
        b"\x88\x00\x01\n\x01\n", b"\x3f\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff",
        struct.pack(">II", stream, dice.randrange(14)),
        struct.pack(">HI", 4, 0x7fffffff), struct.pack(">HI", 5, 16384),
        struct.pack(">HI", 3, 0), struct.pack(">HI", 1, 0),
        struct.pack(">I", stream + 1) + b"\x82\x84\x87\x41\x01x"))
    flags = dice.choice((0, 0, 1, 4, 5, 8, 32, 255))
    where = dice.choice((0, stream, stream, stream + 2, stream + 1, 2, 1))
    return flood.frame(kind, flags, where, payload)


def http2(answer, stream, number):
    dice = random.Random(number)
    if dice.randrange(2):
        for _ in range(dice.choice((1, 2, 5))):
            extra = _some_frame(stream, dice)
            answer = extra + answer if dice.randrange(3) else answer + extra
    if dice.randrange(3) == 0:
        answer = _with_noise(answer, dice)
    # a 204 (index 9 of HPACK) would be an answer: "deleted"
    return _cut(answer.replace(b"\x89", b"\x8d"), dice)
