"""HTTP/2 on top of the h2 library, which does framing and flow control.

Every stream with a Scenario is played by a task of its own, so answers overtake
each other as their delays tell them to.  Whatever breaks the protocol is
written past the library, as ready bytes: it would refuse to do such things.

After a GOAWAY the library must not know, for it would forbid the answers that
are still owed; the connection itself ignores the streams above the announced
last one and closes when those below are done.
"""

import asyncio

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (ConnectionTerminated, DataReceived, RequestReceived,
                       StreamEnded, StreamReset)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

import fuzz
from http1 import Http1Connection
from message import Request, pieces
from scenario import Scenario
from wire import Wire

# Headers that mean nothing in HTTP/2 and that the library would refuse.
HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive")

LAST_POSSIBLE_STREAM = 2 ** 31 - 1

# How long a retired connection stays open after its last answer, in seconds
LINGER = 0.5


def as_request(headers):
    pseudo = {name: value for name, value in headers if name.startswith(":")}
    return Request(pseudo.get(":method", ""), pseudo.get(":path", ""), "2",
                   headers)


def as_headers(answer, play=None):
    """The header list of an answer, as HTTP/2 wants it."""
    headers = [(":status", str(answer.status))]
    headers += [(name.lower(), value) for name, value in answer.headers
                if name.lower() not in HOP_BY_HOP]
    if play is not None and play.length is not None:
        headers.append(("content-length", play.length))
    elif play is None or not (play.chunked or play.until_close):
        headers.append(("content-length", str(len(answer.body))))
    return headers


class Exchange:
    """A request on its way in, and the task that answers it."""

    def __init__(self, request):
        self.request = request
        self.task = None
        self.begun = False


class Http2Connection(Wire):
    max_streams = 128

    def __init__(self, site, listener):
        super().__init__(site, listener)
        self.exchanges = {}
        self.highest = 0
        self.last_allowed = LAST_POSSIBLE_STREAM
        self.lingers = False
        self.window_moved = asyncio.Event()
        self.h2 = H2Connection(H2Configuration(
            client_side=False, header_encoding="latin-1",
            validate_outbound_headers=False))

    def connection_made(self, transport):
        super().connection_made(transport)
        self._limit_streams(self.max_streams)
        self.h2.initiate_connection()
        self._flush()
        # What is above is refused stream by stream (RFC 9113, section 5.1.2);
        # the library would end the connection for it.
        self._limit_streams(LAST_POSSIBLE_STREAM)

    def _limit_streams(self, limit):
        # Not by assignment: that would take effect with the client's
        # acknowledgement only, and the library's own limit holds till then.
        self.h2.local_settings = Settings(client=False, initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: limit})

    def connection_lost(self, error):
        for stream in list(self.exchanges):
            self._finish(stream)
        super().connection_lost(error)

    def _flush(self):
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    # Coming in

    def data_received(self, data):
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            self._flush()
            return self.end("fin")
        for event in events:
            self._take(event)
        # Settings and window updates both may let a waiting body go on.
        self.window_moved.set()
        self._flush()
        self._close_if_done()

    def _take(self, event):
        if isinstance(event, RequestReceived):
            self.exchanges[event.stream_id] = Exchange(
                as_request(event.headers))
        elif isinstance(event, DataReceived):
            self.exchanges[event.stream_id].request.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length,
                                              event.stream_id)
        elif isinstance(event, StreamEnded):
            self._serve(event.stream_id)
        elif isinstance(event, StreamReset):
            self._finish(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self.last_allowed = 0

    def _serve(self, stream):
        exchange = self.exchanges[stream]
        exchange.begun = True
        record = self.journal.request_began(self, exchange.request)
        if stream > self.last_allowed:
            return self._finish(stream)
        if len(self.exchanges) > self.max_streams:
            self._reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return self._finish(stream)
        self.highest = stream
        answer, play = self.site.handle(exchange.request, record)
        if play is None and self._fits(stream, answer):
            return self._send_at_once(stream, record, answer)
        play = play or Scenario()
        self._say_goodbye(stream, play)
        if play.refuse or play.goaway_below:
            return self._finish(stream)
        exchange.task = asyncio.get_running_loop().create_task(
            self._play_to_the_end(stream, record, answer, play))

    def _say_goodbye(self, stream, play):
        """Refuse the stream, announce the connection's end, or neither.

        At once and not in a task: streams that came in the same packet and
        lie above a GOAWAY must find it announced.
        """
        if play.refuse:
            self._reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        elif play.goaway_below:
            self.announce_goaway(max(stream - 2, 0))
        elif play.goaway:
            self.announce_goaway(stream)

    # Going out

    def _fits(self, stream, answer):
        return len(answer.body) <= self.h2.local_flow_control_window(stream)

    def _send_at_once(self, stream, record, answer):
        self.h2.send_headers(stream, as_headers(answer))
        self.h2.send_data(stream, answer.body, end_stream=True)
        self.journal.answered(record, answer.status)
        self._finish(stream)

    async def _play_to_the_end(self, stream, record, answer, play):
        try:
            await self._play(stream, record, answer, play)
        except ProtocolError:
            self.end("fin")     # the stream went away under our feet
        self._finish(stream, cancel=False)
        if play.close and not self.transport.is_closing():
            self.announce_goaway(self.highest)
        if play.close_silently:
            self.end("fin")
        self._close_if_done()

    async def _play(self, stream, record, answer, play):
        if play.delay:
            await asyncio.sleep(play.delay)
        if play.silent:
            await asyncio.Event().wait()
        if play.cuts_at("request"):
            return await self._cut(stream, play)
        if play.early:
            self._send_early(stream)
        if play.fuzz is not None:
            return self._send_fuzzed(stream, record, answer, play)
        if answer.raw is not None:
            return self.transport.write(answer.raw)
        self.h2.send_headers(stream, as_headers(answer, play))
        if play.cuts_at("headers"):
            return await self._cut_headers(stream, play)
        self._flush()
        self.journal.answered(record, answer.status)
        await self._send_body(stream, answer.body, play)
        if play.cuts_at("body") or play.cuts_at("answered"):
            await self._cut(stream, play)

    def _send_fuzzed(self, stream, record, answer, play):
        """Anything that the answer can be made into by mistakes."""
        record.status = answer.status
        self.h2.send_headers(stream, as_headers(answer))
        self.h2.send_data(stream, answer.body, end_stream=True)
        for piece in fuzz.http2(self.h2.data_to_send(), stream, play.fuzz):
            self.transport.write(piece)
        if fuzz.ends(play.fuzz):
            self.end("fin")

    def _send_early(self, stream):
        for status in ("100", "103"):
            self.h2.send_headers(stream, [(":status", status)])

    async def _send_body(self, stream, body, play):
        half = play.cuts_at("body")
        limit = len(body) // 2 if half else len(body)
        for piece in pieces(body, limit, one_by_one=play.drip > 0):
            await self._send_piece(stream, piece)
            if play.drip:
                await asyncio.sleep(play.drip)
        # A stream that is to be reset must not have ended before.
        if not half and not (play.cut and play.cut.how == "rst"):
            self.h2.end_stream(stream)
            self._flush()

    async def _send_piece(self, stream, piece):
        """Send a piece in frames, as fast as the client's windows allow."""
        while piece:
            room = min(self.h2.local_flow_control_window(stream),
                       self.h2.max_outbound_frame_size)
            if room <= 0:
                self.window_moved.clear()
                await self.window_moved.wait()
                continue
            self.h2.send_data(stream, piece[:room])
            self._flush()
            piece = piece[room:]
            await self.drained()

    async def _cut_headers(self, stream, play):
        """End amid the header section; a stream can only end behind it."""
        frame = self.h2.data_to_send()
        if play.cut.how != "rst":
            frame = frame[:len(frame) // 2]
        self.transport.write(frame)
        await self._cut(stream, play)

    async def _cut(self, stream, play):
        if play.cut.how == "rst":
            return self._reset_stream(stream, play.cut.code)
        self._flush()
        await self.cut_off(play.cut)

    def _reset_stream(self, stream, code):
        self.h2.reset_stream(stream, code)
        self._flush()

    # Coming to an end

    def announce_goaway(self, last=None):
        """Take no stream above last, by default the highest one served."""
        last = self.highest if last is None else last
        self.last_allowed = min(self.last_allowed, last)
        self._flush()
        self.transport.write(GoAwayFrame(
            0, last_stream_id=last, error_code=0).serialize())
        self._close_if_done()

    def _finish(self, stream, cancel=True):
        exchange = self.exchanges.pop(stream, None)
        if exchange is None:
            return
        if exchange.begun:
            self.journal.request_ended(self)
        if cancel and exchange.task is not None:
            exchange.task.cancel()

    def retire(self):
        """GOAWAY, and the end when all is answered, but not at once.

        What the client sends until it knows would be answered by a reset, and
        that takes along what it has not read yet, the GOAWAY itself included.
        """
        self.lingers = True
        self.announce_goaway()

    def _close_if_done(self):
        leaving = self.last_allowed < LAST_POSSIBLE_STREAM
        if leaving and not self.exchanges and not self.transport.is_closing():
            self._flush()
            if self.lingers:
                asyncio.get_running_loop().call_later(LINGER, self.end, "fin")
            else:
                self.end("fin")


class AlpnSwitch(asyncio.Protocol):
    """Becomes what the client and the TLS layer agreed upon."""

    def __init__(self, site, listener):
        self.site = site
        self.listener = listener

    def connection_made(self, transport):
        tls = transport.get_extra_info("ssl_object")
        kind = (Http2Connection if tls.selected_alpn_protocol() == "h2"
                else Http1Connection)
        protocol = kind(self.site, self.listener)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
