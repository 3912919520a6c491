"""Peers that never stop talking.

A flood is a beginning and a unit that is repeated for as long as the client
stays; each is chosen so that a client may be busy with it without ever coming
to an end: of the header section, of the body, or of what the protocol itself
has to say.  The client must be the bottleneck, so that it never finds its
socket empty: the units are large, and each connection has a thread of its own
that does nothing but send.
"""

import re
import socket
import struct
import threading
from urllib.parse import unquote

import bodies

UNIT = 256 * 1024


def _many(piece):
    return piece * (UNIT // len(piece))


# What can follow a request (or a CONNECT) in HTTP/1.
_HEAD = b"HTTP/1.1 %d Flood\r\n"
HTTP1 = {
    "headers": (_HEAD, _many(b"X-Flood: 1\r\n")),
    "long-header": (_HEAD + b"X-Flood: ", _many(b"x")),
    "interim": (b"", _many(b"HTTP/1.1 100 Continue\r\n\r\n")),
    "body": (_HEAD + b"Content-Length: 999999999999\r\n\r\n", _many(b" ")),
    "until-close": (_HEAD + b"Connection: close\r\n\r\n", _many(b" ")),
    "chunks": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
               _many(b"1\r\n \r\n")),
    "chunk-extension": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
                        _many(b"x")),
    "trailers": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
                 _many(b"X-Flood: 1\r\n")),
    "long-trailer": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
                     _many(b"x")),
}


def http1(name, status):
    """The beginning and the unit of a flood by HTTP/1."""
    head, unit = HTTP1[name]
    return (head % status if b"%d" in head else head), unit


def frame(kind, flags, stream, payload=b""):
    return (struct.pack(">I", len(payload))[1:] +
            struct.pack(">BBI", kind, flags, stream) + payload)


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_HEADERS = 4

# HPACK without a table: ":status: 200" is indexed, the rest literal.
STATUS_200 = b"\x88"
LITERAL = b"\x00\x07x-flood\x01y"


# Ignored by everybody: put between frames that ask for an answer, of which a
# client stands only so many at a time.
UNKNOWN = frame(0xfa, 0, 0, bytes(16384))


def _http2(stream):
    return {
        "ping": (b"", frame(PING, 0, 0, b"12345678") * 400 + UNKNOWN),
        "ping-ack": (b"", frame(PING, 1, 0, b"12345678")),
        "settings": (b"", frame(SETTINGS, 0, 0) * 400 + UNKNOWN),
        "settings-ack": (b"", frame(SETTINGS, 1, 0)),
        "window": (b"", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")),
        "stream-window": (b"", frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\1")),
        "priority": (b"", frame(PRIORITY, 0, stream, b"\0\0\0\0\x10")),
        "unknown": (b"", frame(0xfa, 0, 0, b"12345678")),
        "data": (frame(HEADERS, END_HEADERS, stream, STATUS_200),
                 frame(DATA, 0, stream)),
        "padding": (frame(HEADERS, END_HEADERS, stream, STATUS_200),
                    frame(DATA, 8, stream, b"\x08" + bytes(8))),
        "headers": (frame(HEADERS, 0, stream, STATUS_200),
                    frame(CONTINUATION, 0, stream, LITERAL)),
        "continuation": (frame(HEADERS, 0, stream, STATUS_200),
                         frame(CONTINUATION, 0, stream)),
        "interim": (b"", frame(HEADERS, END_HEADERS, stream,
                               b"\x48\x03100" + LITERAL)),
        "goaway": (b"", frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0))),
        "other-streams": (b"", frame(RST_STREAM, 0, stream + 2,
                                     b"\0\0\0\0")),
    }




def http2(name, stream):
    """The beginning and the unit of a flood by HTTP/2."""
    head, piece = _http2(stream)[name]
    return head, _many(piece)


# --- who sends it ---

# What is asked for: a flood by an id, or, of a proxy, by a host such as
# "body.407.flood".
WISH = re.compile(r"^CONNECT ([a-z-]+)\.(\d+)\.flood|;flood=([a-z-]+)")

ANSWER = (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
          % (len(bodies.DELETED), bodies.DELETED))


def _pour(sock, head, unit):
    sock.sendall(head)
    while True:
        sock.sendall(unit)


def _serve_http1(sock):
    """Say "deleted" to everybody who doesn't ask for a flood."""
    data = b""
    while True:
        piece = sock.recv(65536)
        if not piece:
            return
        data += piece
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            continue
        data = rest
        wish = WISH.search(unquote(head.decode("latin-1")))
        if wish:
            _pour(sock, *http1(wish[1] or wish[3], int(wish[2] or 200)))
        sock.sendall(ANSWER)


def _serve_http2(sock):
    """Flood as soon as the first request is there."""
    import hpack
    decoder = hpack.Decoder()
    sock.sendall(frame(SETTINGS, 0, 0))
    stream = sock.makefile("rb")
    stream.read(24)     # the client's preface
    while True:
        start = stream.read(9)
        if len(start) < 9:
            return
        payload = stream.read(int.from_bytes(start[:3], "big"))
        if start[3] != HEADERS:
            continue
        number = int.from_bytes(start[5:], "big")
        if start[4] & 32:       # a priority in front
            payload = payload[5:]
        path = dict(decoder.decode(payload))[":path"]
        return _pour(sock, *http2(WISH.search(unquote(path))[3], number))


class Flooder:
    """A port whose connections are served by threads."""

    everybody = []

    def __init__(self, tls=None):
        self.everybody.append(self)
        self.tls = tls
        self.sockets = []       # the descriptors beneath, for end()
        self.server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            sock, _ = self.server.accept()
            self.sockets.append(sock.dup())
            threading.Thread(target=self._serve, args=(sock,),
                             daemon=True).start()

    def _serve(self, sock):
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock:
                if (self.tls is not None and
                        sock.selected_alpn_protocol() == "h2"):
                    _serve_http2(sock)
                else:
                    _serve_http1(sock)
        except OSError:
            pass    # the client had enough

    def end(self):
        """End all connections; new ones are served."""
        while self.sockets:
            sock = self.sockets.pop()
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass    # it has ended
            sock.close()
