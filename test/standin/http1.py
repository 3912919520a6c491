"""HTTP/1.1 by hand, so that every byte and every breach is under control.

A connection serves its requests one after the other; what arrives meanwhile
waits in the buffer.  An answer without a Scenario is written on the spot: this
path is what a benchmark measures.  An answer with one is played by a task, step
by step as _play() reads from top to bottom; the task dies with the connection.
"""

import asyncio

import bodies
import fuzz
from message import REASONS, Answer, Request, pieces
from wire import Wire

MAX_HEAD = 1 << 20

EARLY = (b"HTTP/1.1 100 Continue\r\n\r\n"
         b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")

# Statuses whose answers end with the header section.
BODILESS = (204, 304)


class BadRequest(ValueError):
    """The bytes received are no HTTP/1.1 request."""


def parse_head(head):
    """A Request from a header section, without the blank line at its end."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest("bad request line")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest("bad header line")
        headers.append((name, value.strip(" \t")))
    return Request(words[0], words[1], words[2][5:], headers)


def read_chunked(data, at):
    """Body and end of a chunked message in data from at, None if unfinished."""
    body = b""
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(data[at:line_end].split(b";")[0], 16)
        chunk_end = line_end + 2 + size + 2
        if len(data) < chunk_end:
            return None
        if not size:
            return body, chunk_end
        body += data[line_end + 2:chunk_end - 2]
        at = chunk_end


def read_body(request, data, at):
    """Body and end of the message whose header section ends at."""
    if "chunked" in request.fields.get("transfer-encoding", "").lower():
        return read_chunked(data, at)
    end = at + int(request.fields.get("content-length", 0))
    return (data[at:end], end) if len(data) >= end else None


def wants_close(request):
    wish = request.fields.get("connection", "").lower()
    return wish == "close" or (request.version == "1.0" and
                               wish != "keep-alive")


def head_bytes(answer, framing, version="1.1"):
    """Status line and header section."""
    lines = ["HTTP/%s %d %s" % (version, answer.status,
                                REASONS.get(answer.status, ""))]
    lines += ["%s: %s" % header for header in answer.headers]
    lines += framing
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def plain_bytes(answer):
    """A whole answer without misbehaviour."""
    if answer.wire is None:
        framing = ([] if answer.status in BODILESS
                   else ["Content-Length: %d" % len(answer.body)])
        answer.wire = head_bytes(answer, framing) + answer.body
    return answer.wire


def framing_lines(answer, play, closing):
    """The headers that say where the answer ends, truthfully or not."""
    lines = []
    if play.length is not None:
        lines.append("Content-Length: " + play.length)
    if play.chunked:
        lines.append("Transfer-Encoding: chunked")
    elif not (lines or play.until_close or answer.status in BODILESS):
        lines.append("Content-Length: %d" % len(answer.body))
    if closing:
        lines.append("Connection: close")
    return lines


def unsolicited_bytes(name):
    status, body = bodies.named(name, "")
    return plain_bytes(Answer(status, body))


class Http1Connection(Wire):
    def __init__(self, site, listener):
        super().__init__(site, listener)
        self.buffer = b""
        self.task = None

    def connection_lost(self, error):
        if self.task is not None:
            self.task.cancel()
        super().connection_lost(error)

    def data_received(self, data):
        self.buffer = self.buffer + data if self.buffer else data
        self._serve_buffer()

    def _serve_buffer(self):
        try:
            while self.buffer and self.task is None:
                request = self._take_request()
                if request is None or self.transport.is_closing():
                    return
                self._serve(request)
        except ValueError as error:
            self._refuse(str(error))

    def _take_request(self):
        """The next complete request of the buffer, or None."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                raise BadRequest("header section too long")
            return None
        request = parse_head(self.buffer[:end])
        found = read_body(request, self.buffer, end + 4)
        if found is None:
            return None
        request.body, end = found
        self.buffer = self.buffer[end:]
        return request

    def _refuse(self, reason):
        body = bodies.flat("Bad Request", "stand-in: " + reason, 400)
        self.transport.write(plain_bytes(Answer(400, body)))
        self.end("fin")

    def _serve(self, request):
        record = self.journal.request_began(self, request)
        answer, play = self.site.handle(request, record)
        if play is None:
            self.transport.write(plain_bytes(answer))
            self.journal.answered(record, answer.status)
            self.journal.request_ended(self)
            if wants_close(request):
                self.end("fin")
            return
        self.task = asyncio.get_running_loop().create_task(
            self._play(request, record, answer, play))
        # A callback and not a finally: it also runs for a task that was
        # cancelled before its first step.
        self.task.add_done_callback(lambda task: self._played(request, play))

    def _played(self, request, play):
        self.journal.request_ended(self)
        self.task = None
        if not self.transport.is_closing():
            self._afterwards(request, play)
            self._serve_buffer()

    async def _play(self, request, record, answer, play):
        if play.delay:
            await asyncio.sleep(play.delay)
        if play.silent:
            await asyncio.Event().wait()
        if play.cuts_at("request"):
            return self.end(play.cut.how)
        if play.early:
            self.transport.write(EARLY)
        if play.fuzz is not None:
            return self._send_fuzzed(record, answer, play)
        head = self._head(request, answer, play)
        if play.smuggle is not None:
            self.journal.answered(record, answer.status)
            return await self._send_smuggled(head, answer.body, play)
        if play.cuts_at("headers"):
            self.transport.write(head[:len(head) // 2])
            return await self.cut_off(play.cut)
        self.transport.write(head)
        self.journal.answered(record, answer.status)
        if answer.raw is None:
            await self._send_body(answer.body, play)
        if play.cuts_at("body") or play.cuts_at("answered"):
            await self.cut_off(play.cut)

    def _head(self, request, answer, play):
        if answer.raw is not None:
            return answer.raw
        framing = framing_lines(answer, play, self._closes(request, play))
        return head_bytes(answer, framing, "1.0" if play.http10 else "1.1")

    @staticmethod
    def _closes(request, play):
        return (play.close or play.http10 or play.until_close or
                wants_close(request))

    async def _send_body(self, body, play):
        """Send the body, or half of it when the connection is cut there."""
        half = play.cuts_at("body")
        limit = len(body) // 2 if half else len(body)
        for piece in pieces(body, limit, one_by_one=play.drip > 0):
            if play.chunked:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            # nobody is there any more: others may wait for us
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            await self.drained()
            if play.drip:
                await asyncio.sleep(play.drip)
        if play.chunked and not half:
            self.transport.write(b"0\r\n\r\n")

    async def _send_smuggled(self, head, body, play):
        """The answer, and in its wake one that says "deleted".

        Each element becomes a record of its own where there is TLS, and all
        that is written at a time leaves in as few segments as possible.
        """
        if play.chunked:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        extra = unsolicited_bytes("deleted")
        if play.smuggle == "record":
            self.transport.writelines([head + body + extra])
        elif play.smuggle == "body-record":
            self.transport.writelines([head, body + extra])
        elif play.smuggle == "own-record":
            self.transport.writelines([head + body, extra])
        else:
            self.transport.write(head + body)
            await self.flushed()
            self.transport.write(extra)

    def _send_fuzzed(self, record, answer, play):
        """Anything that the answer can be made into by mistakes."""
        record.status = answer.status
        for piece in fuzz.http1(plain_bytes(answer), play.fuzz):
            self.transport.write(piece)
        if fuzz.ends(play.fuzz):
            self.end("fin")

    def _afterwards(self, request, play):
        """What the scenario has in store for a connection that lives on."""
        if play.unsolicited is not None:
            asyncio.get_running_loop().call_later(
                play.unsolicited_after, self._speak_unasked, play.unsolicited)
        if play.close_silently or self._closes(request, play):
            self.end("fin")

    def _speak_unasked(self, name):
        if not self.transport.is_closing():
            self.transport.write(unsolicited_bytes(name))
