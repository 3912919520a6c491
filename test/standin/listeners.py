"""The ports: those that serve, and those that fail in a way of their own.

Every port is chosen by the kernel, so any number of stand-ins run side by side.
Listening sockets can be closed and opened again on the same port (the server is
gone, the server is back); in between, the port is kept from others by a socket
that is bound and doesn't listen.
"""

import asyncio
import socket

HOST = "127.0.0.1"
BACKLOG = 4096


def bound_socket(port=0):
    """A socket that has a port and doesn't listen: connections are refused."""
    sock = socket.socket()
    # Also lets two sockets share a port as long as at most one listens.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    return sock


class Listener:
    """One port and what serves its connections."""

    def __init__(self, name, protocol, tls=None):
        self.name = name
        self.protocol = protocol    # (listener's name) -> asyncio.Protocol
        self.tls = tls
        self.socket = None          # only while open
        self.server = None
        self.reserved = bound_socket()
        self.port = self.reserved.getsockname()[1]

    def open(self):
        """Listen from now on; the event loop gets to accepting by and by."""
        if self.socket is None:
            self.socket = bound_socket(self.port)
            self.socket.listen(BACKLOG)
            asyncio.get_running_loop().create_task(self._serve(self.socket))

    async def _serve(self, sock):
        if sock is not self.socket:
            return      # closed meanwhile
        self.server = await asyncio.get_running_loop().create_server(
            lambda: self.protocol(self.name), sock=sock, backlog=BACKLOG,
            ssl=self.tls)

    def close(self):
        if self.socket is None:
            return
        if self.server is not None:
            self.server.close()
        self.socket.close()
        self.socket = self.server = None


class Mute(asyncio.Protocol):
    """Accepts and never says a word: a TLS handshake with it hangs."""


class BlackHole:
    """A port where the TCP handshake itself hangs.

    The queue of connections that nobody accepts has room for one with a
    backlog of 0; we take that place ourselves, and the kernel drops whatever
    else knocks.
    """

    def __init__(self):
        self.server = bound_socket()
        self.server.listen(0)
        self.port = self.server.getsockname()[1]
        self.fillers = [self._filler() for _ in range(4)]

    def _filler(self):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((HOST, self.port))
        return sock
