"""A forward proxy: CONNECT tunnels, and plain requests in absolute form.

It keeps a journal of its own, of what a proxy gets to see: a client that hands
its credentials to the proxy is found out here.  Whatever host is asked for, the
connection goes to that port of this machine, so nothing ever leaves it and a
test may use names that only the proxy can resolve.

Plain requests are forwarded with "Connection: close" and answered by copying
bytes until the other side closes: no need to understand the answer.
"""

import asyncio
from urllib.parse import urlsplit

import bodies
from http1 import BadRequest, parse_head, plain_bytes
from listeners import HOST
from message import REASONS, Answer
from wire import Wire

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

# What a proxy keeps to itself or replaces.
NOT_FORWARDED = ("connection", "keep-alive", "proxy-connection",
                 "proxy-authorization")


class Proxy:
    """What all proxy connections share."""

    def __init__(self, journal):
        self.journal = journal
        self.reset()

    def reset(self):
        self.journal.reset()
        self.refusal = None     # status to refuse everything with
        self.raw = None         # bytes to answer everything with


def origin_form(request):
    """The bytes by which an absolute-form request goes on to its host."""
    url = urlsplit(request.target)
    target = (url.path or "/") + ("?" + url.query if url.query else "")
    lines = ["%s %s HTTP/1.1" % (request.method, target)]
    lines += ["%s: %s" % header for header in request.headers
              if header[0].lower() not in NOT_FORWARDED]
    lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def destination_port(request):
    url = urlsplit("//" + request.target if request.method == "CONNECT"
                   else request.target)
    if not url.hostname:
        raise BadRequest("neither CONNECT nor an absolute URL")
    return url.port or 80


class Upstream(asyncio.Protocol):
    """The far side of a tunnel: copies what it gets to the client."""

    def __init__(self, client):
        self.client = client

    def data_received(self, data):
        self.client.transport.write(data)

    def connection_lost(self, error):
        self.client.end("fin")

    def pause_writing(self):
        self.client.transport.pause_reading()

    def resume_writing(self):
        self.client.transport.resume_reading()


class ProxyConnection(Wire):
    def __init__(self, site, listener):
        super().__init__(site, listener)
        self.buffer = b""
        self.task = None
        self.upstream = None    # the transport, once there is one

    def connection_lost(self, error):
        if self.task is not None:
            self.task.cancel()
        if self.upstream is not None:
            self.upstream.close()
        for _ in range(self.in_flight):
            self.journal.request_ended(self)
        super().connection_lost(error)

    def pause_writing(self):
        super().pause_writing()
        if self.upstream is not None:
            self.upstream.pause_reading()

    def resume_writing(self):
        super().resume_writing()
        if self.upstream is not None and not self.upstream.is_closing():
            self.upstream.resume_reading()

    def data_received(self, data):
        if self.upstream is not None:
            self.upstream.write(data)
            return
        self.buffer += data
        head, blank_line, rest = self.buffer.partition(b"\r\n\r\n")
        if blank_line and self.task is None:
            self.buffer = rest
            self._begin(head)

    def _begin(self, head):
        try:
            request = parse_head(head)
            record = self.journal.request_began(self, request)
            port = destination_port(request)
        except ValueError:
            return self._refuse(400)
        if self.site.raw is not None:
            self.transport.write(self.site.raw)
            return
        if self.site.refusal is not None:
            self.journal.answered(record, self.site.refusal)
            return self._refuse(self.site.refusal)
        self.task = asyncio.get_running_loop().create_task(
            self._forward(request, record, port))

    def _refuse(self, status):
        reason = REASONS.get(status, "Unknown")
        self.transport.write(plain_bytes(Answer(
            status, bodies.flat(reason, "stand-in proxy", status),
            headers=[("Connection", "close")])))
        self.end("fin")

    async def _forward(self, request, record, port):
        try:
            self.upstream, _ = await asyncio.get_running_loop(
                ).create_connection(lambda: Upstream(self), HOST, port)
        except OSError:
            self.journal.answered(record, 502)
            return self._refuse(502)
        if request.method == "CONNECT":
            self.transport.write(ESTABLISHED)
            self.journal.answered(record, 200)
        else:
            self.upstream.write(origin_form(request))
        if self.buffer:
            self.upstream.write(self.buffer)
