"""Requests and answers as plain values, the same for HTTP/1.1 and HTTP/2.

An answer's body is either bytes or a Repeated: a few distinct bytes and how
often the middle ones come again.  That is how a body of a gigabyte, or a gzip
bomb, is described without ever being held in memory.
"""

import struct
import zlib

REASONS = {
    100: "Continue", 103: "Early Hints", 200: "OK", 201: "Created",
    202: "Accepted", 204: "No Content", 301: "Moved Permanently",
    302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed",
    407: "Proxy Authentication Required", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 418: "I'm a teapot", 425: "Too Early",
    429: "Too Many Requests", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}

JSON_TYPE = "application/json; charset=utf-8"


class Request:
    """One request as it came in; header names and values exactly as sent."""

    __slots__ = ("method", "target", "version", "headers", "body", "fields")

    def __init__(self, method, target, version, headers, body=b""):
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.body = body
        self.fields = {name.lower(): value for name, value in headers}


class Answer:
    """A status, headers and a body.

    wire is for the HTTP/1.1 writer: answers that never change are sent many
    thousand times a second, so it keeps their bytes here.
    """

    __slots__ = ("status", "headers", "body", "raw", "wire")

    def __init__(self, status, body=b"", content_type=JSON_TYPE, headers=()):
        self.status = status
        self.headers = list(headers)
        if content_type and body:
            self.headers.insert(0, ("Content-Type", content_type))
        self.body = body
        self.raw = None     # replaces everything, status line included
        self.wire = None


class Repeated:
    """A body of first, then unit * count, then last."""

    def __init__(self, first, unit, count, last=b""):
        self.first = first
        self.unit = unit
        self.count = count
        self.last = last

    def __len__(self):
        return len(self.first) + len(self.unit) * self.count + len(self.last)

    def __iter__(self):
        if self.first:
            yield self.first
        for _ in range(self.count):
            yield self.unit
        if self.last:
            yield self.last


# A large body starts with a whole, true answer and goes on with blanks: all of
# it is valid JSON, so a client that judges only what fitted its buffer is caught.
OPENING = b'{"success": true, "data": {"message": "API key deleted"}}'
BLANKS = b" " * (256 * 1024)


def filler(size):
    """A body of exactly size bytes: the documented success, padded."""
    if size <= len(OPENING):
        return OPENING[:size]
    count, rest = divmod(size - len(OPENING), len(BLANKS))
    return Repeated(OPENING, BLANKS, count, BLANKS[:rest])


def gzip_bomb(size):
    """filler(size), gzip-compressed to about a thousandth.

    Z_FULL_FLUSH makes a deflated block independent of what came before it, so
    one compressed unit can be repeated.
    """
    plain = filler(size)
    if isinstance(plain, bytes):
        plain = Repeated(plain, b"", 0)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)

    def block(data):
        return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)

    checksum = 0
    for piece in plain:
        checksum = zlib.crc32(piece, checksum)
    header = b"\x1f\x8b\x08" + b"\0" * 6 + b"\xff"
    trailer = struct.pack("<II", checksum, len(plain) & 0xffffffff)
    return Repeated(header + block(plain.first), block(plain.unit),
                    plain.count,
                    block(plain.last) + deflate.flush() + trailer)


def pieces(body, limit, one_by_one=False):
    """The first limit bytes of a body in pieces fit for one write each."""
    for piece in ((body,) if isinstance(body, bytes) else body):
        if limit <= 0:
            return
        piece = piece[:limit]
        limit -= len(piece)
        if one_by_one:
            for at in range(len(piece)):
                yield piece[at:at + 1]
        elif piece:
            yield piece
