"""What both kinds of connection share: cutting, closing and back-pressure.

A Wire is an asyncio.Protocol that can wait until its output is on its way, end
the connection by RST or in good order, and tells its site's journal about its
life.  Subclasses call the parent's connection_made and connection_lost.
"""

import asyncio
import socket
import struct

# Close by RST: linger, for zero seconds.
RESET = struct.pack("ii", 1, 0)

# Seconds between half an answer and a reset: a reset that overtakes the client
# would make it forget what it has received but not read.
SETTLE = 0.01

# An answer that is longer than this waits for the client to keep up.
HIGH_WATER = 1 << 20


class Wire(asyncio.Protocol):
    def __init__(self, site, listener):
        self.site = site
        self.journal = site.journal
        self.listener = listener
        self.number = 0
        self.in_flight = 0
        self.transport = None
        self.writable = None    # a Future while the transport is full

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(HIGH_WATER)
        self.socket = transport.get_extra_info("socket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self.journal.connection_opened(self)

    def connection_lost(self, error):
        self.journal.connection_closed(self)
        self.resume_writing()

    def pause_writing(self):
        if self.writable is None:
            self.writable = asyncio.get_running_loop().create_future()

    def resume_writing(self):
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    async def drained(self):
        if self.writable is not None:
            await self.writable

    async def flushed(self):
        """Wait until every byte written has been handed to the kernel."""
        while (self.transport.get_write_buffer_size() and
               not self.transport.is_closing()):
            await asyncio.sleep(0.001)

    async def cut_off(self, cut):
        """End the connection amid or right behind an answer."""
        await self.flushed()
        if cut.stage in ("headers", "body"):
            await asyncio.sleep(SETTLE)
        self.end(cut.how)

    def end(self, how):
        """End the connection: "reset" by RST, "fin" in good order."""
        if self.transport.is_closing():
            return
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()
        else:
            self._close()

    def _close(self):
        """Close as common servers do: a TLS goodbye with the FIN right behind.

        asyncio by itself would hold the TCP connection open until the client
        has said goodbye too.
        """
        secure = self.transport.get_extra_info("ssl_object") is not None
        self.transport.close()
        if secure:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass    # the client was faster
