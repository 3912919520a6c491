"""Misbehaviour on demand, chosen by the request itself.

A workspace id may carry directives behind its first ';', for example
    ws-1;status=429;retry-after=1;times=2
so that a test needs no second channel to say what shall happen, and tests that
run side by side cannot disturb each other.  Each directive is a row of
DIRECTIVES: its name, the attribute of Scenario that it sets, and the function
that reads its value.  A new directive is a new row.

An unknown directive or value raises BadDirective: a typing error in a test must
not pass for normal behaviour.  An empty directive ends the list, so that
'odd;;id; with semicolons' is an id without directives.
"""

import functools
from urllib.parse import unquote_to_bytes

# RFC 9113, section 7: each name's code is its place in this list.
HTTP2_ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM",
    "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)

STAGES = ("request", "headers", "body", "answered")

# How one more answer is laid into the records of TLS, see http1.py
LAYOUTS = ("record", "body-record", "own-record", "segment")


class BadDirective(ValueError):
    """An id asks for something that the stand-in can't do."""


class Cut:
    """Where in the exchange the connection or stream ends, and how.

    how is "reset" (TCP RST), "fin" (orderly close) or "rst" (HTTP/2
    RST_STREAM with code).
    """

    def __init__(self, how, stage, code=None):
        if stage not in STAGES:
            raise BadDirective("stage must be one of %s, not %s"
                               % (", ".join(STAGES), stage))
        self.how = how
        self.stage = stage
        self.code = code


class Scenario:
    """What a request asks for; the class attributes are plain behaviour."""

    # The answer.
    status = None
    body = None
    hex = None
    raw = None
    type = None
    headers = 0
    retry_after = None
    redirect = None
    size = None
    gzip = False
    # How often, when, and whether the key goes.
    times = None
    delay = 0.0
    act = False
    # How the answer is delivered.
    silent = False
    early = False
    http10 = False
    chunked = False
    until_close = False
    length = None
    drip = 0.0
    cut = None
    # What happens to the connection afterwards.
    close = False
    close_silently = False
    unsolicited = None
    unsolicited_after = 0.0
    smuggle = None
    fuzz = None
    # HTTP/2 only.
    refuse = False
    goaway = False
    goaway_below = False

    def __init__(self):
        self.header = []

    def cuts_at(self, stage):
        return self.cut is not None and self.cut.stage == stage

    @property
    def scripts_answer(self):
        """Does it say what to answer, instead of what the API would say?"""
        return (self.gzip or any(value is not None for value in (
            self.status, self.body, self.hex, self.raw, self.size,
            self.redirect)))

    @property
    def revokes(self):
        """Does the request take effect, whatever the client gets to see?"""
        if self.act:
            return True
        return not (self.scripts_answer or self.silent or self.refuse or
                    self.goaway_below or self.cuts_at("request") or
                    self.fuzz is not None)

    @property
    def needs_http2(self):
        return (self.refuse or self.goaway or self.goaway_below or
                (self.cut is not None and self.cut.how == "rst"))


def _text(value):
    return value.decode("latin-1")


def _hex(value):
    return bytes.fromhex(_text(value))


def _header(value):
    name, colon, content = _text(value).partition(":")
    if not colon:
        raise BadDirective("header needs Name:value")
    return name, content.lstrip()


def _reset(value):
    return Cut("reset", _text(value) or "request")


def _fin(value):
    return Cut("fin", _text(value) or "request")


def _rst(value):
    name, _, stage = _text(value).partition(":")
    code = int(name) if name.isdigit() else HTTP2_ERRORS.index(name)
    return Cut("rst", stage or "request", code)


def _smuggle(value):
    if _text(value) not in LAYOUTS:
        raise BadDirective("smuggle must be one of " + ", ".join(LAYOUTS))
    return _text(value)


def _flag(value):
    if value:
        raise BadDirective("this directive takes no value")
    return True


DIRECTIVES = {
    "status": ("status", int),
    "body": ("body", _text),
    "hex": ("hex", _hex),
    "raw": ("raw", _hex),
    "type": ("type", _text),
    "header": ("header", _header),
    "headers": ("headers", int),
    "retry-after": ("retry_after", _text),
    "redirect": ("redirect", _text),
    "size": ("size", int),
    "gzip": ("gzip", _flag),
    "times": ("times", int),
    "delay": ("delay", float),
    "act": ("act", _flag),
    "silent": ("silent", _flag),
    "continue": ("early", _flag),
    "http10": ("http10", _flag),
    "chunked": ("chunked", _flag),
    "until-close": ("until_close", _flag),
    "cl": ("length", _text),
    "drip": ("drip", float),
    "reset": ("cut", _reset),
    "fin": ("cut", _fin),
    "rst": ("cut", _rst),
    "close": ("close", _flag),
    "close-silently": ("close_silently", _flag),
    "unsolicited": ("unsolicited", _text),
    "unsolicited-after": ("unsolicited_after", float),
    "smuggle": ("smuggle", _smuggle),
    "fuzz": ("fuzz", int),
    "refuse": ("refuse", _flag),
    "goaway": ("goaway", _flag),
    "goaway-below": ("goaway_below", _flag),
}


def _apply(scenario, directive):
    name, _, value = directive.partition("=")
    if name not in DIRECTIVES:
        raise BadDirective("unknown directive %s" % name)
    attribute, read = DIRECTIVES[name]
    try:
        value = read(unquote_to_bytes(value.replace("+", " ")))
    except ValueError as error:
        raise BadDirective("%s: %s" % (name, error)) from None
    if attribute == "header":
        scenario.header.append(value)
    else:
        setattr(scenario, attribute, value)


@functools.lru_cache(maxsize=1024)
def parse(directives):
    """The Scenario that a list of directives describes, None without any."""
    scenario = None
    for directive in directives.split(";"):
        if not directive:
            break
        scenario = scenario or Scenario()
        _apply(scenario, directive)
    return scenario
