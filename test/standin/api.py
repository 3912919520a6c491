"""The vendor's endpoint: DELETE {prefix}/v1/workspaces/{id}/api-key.

Api.handle() turns a request into an answer and, when the id asks for it, the
Scenario by which the connection shall deliver it.  Every workspace has a key
until it is deleted, unless its id begins with 'absent'; the state hangs on the
whole decoded id, directives included, so each test has its own workspaces by
choosing its own ids.

The order of judgement is that of a real service: route, rate limit, then the
directives, then credentials, then state.  What a request does to the key
happens when it arrives, before any delay: a client that gives up waiting has
deleted it all the same.
"""

import re
from urllib.parse import unquote_to_bytes

import bodies
import scenario
from message import JSON_TYPE, REASONS, Answer, filler, gzip_bomb

ROUTE = re.compile(r"(?:/[^?#]*)?/v1/workspaces/([^/?#]+)/api-key(\?.*)?")

DELETED = Answer(200, bodies.DELETED)
UNAUTHORIZED = Answer(401, bodies.UNAUTHORIZED)
FORBIDDEN = Answer(403, bodies.FORBIDDEN)
ABSENT = Answer(404, bodies.ABSENT)
NO_ROUTE = Answer(404, bodies.flat("Not Found", "stand-in: no such path", 404))
WRONG_METHOD = Answer(405, bodies.flat("Method Not Allowed",
                                       "stand-in: only DELETE", 405),
                      headers=[("Allow", "DELETE")])
QUERY = Answer(400, bodies.flat("Bad Request",
                                "stand-in: no query string allowed", 400))


def decode_id(segment):
    if "%" not in segment:
        return segment
    return unquote_to_bytes(segment).decode("utf-8", "backslashreplace")


class Keys:
    """Which workspaces have a key; only what differs from the rule is kept."""

    def __init__(self):
        self.known = {}

    def alive(self, workspace):
        return self.known.get(workspace, not workspace.startswith("absent"))

    def delete(self, workspace):
        self.known[workspace] = False

    def restore(self, workspace):
        self.known[workspace] = True


class Api:
    def __init__(self, journal):
        self.journal = journal
        self.second_url = None
        self.reset()

    def reset(self):
        self.journal.reset()
        self.keys = Keys()
        self.limit = None
        self.default = ""
        self.played = {}

    def handle(self, request, record):
        """Return an Answer and the Scenario to deliver it by, if any."""
        refusal = self._route(request, record)
        if refusal is None and self.limit is not None:
            refusal = self.limit.take()
        if refusal is not None:
            return refusal, None
        try:
            play = self._scenario(record.id, request.version)
            return self._answer(request, record.id, play), play
        except scenario.BadDirective as error:
            return Answer(501, bodies.flat(
                "Not Implemented", "stand-in: %s" % error, 501)), None

    def _route(self, request, record):
        """Find the workspace, or return the answer to a misplaced request."""
        match = ROUTE.fullmatch(request.target)
        if match is None:
            return NO_ROUTE
        record.id = decode_id(match.group(1))
        if request.method != "DELETE":
            return WRONG_METHOD
        return QUERY if match.group(2) else None

    def _scenario(self, workspace, version):
        """The scenario of this id, unless it was played often enough."""
        _, semicolon, directives = workspace.partition(";")
        play = scenario.parse(directives if semicolon else self.default)
        if play is None:
            return None
        if play.times is not None:
            played = self.played.get(workspace, 0)
            if played >= play.times:
                return None
            self.played[workspace] = played + 1
        if play.unsolicited not in bodies.NAMED and play.unsolicited:
            raise scenario.BadDirective("unknown body " + play.unsolicited)
        if play.needs_http2 and version != "2":
            raise scenario.BadDirective("this directive needs HTTP/2")
        return play

    def _answer(self, request, workspace, play):
        key = request.fields.get("x-api-key", "")
        if play is None:
            return self._documented(workspace, key)
        if play.scripts_answer:
            # Built first, so that a bad directive leaves the key alone.
            answer = self._scripted(request, key, play)
            if play.act:
                self.keys.delete(workspace)
        elif play.revokes:
            answer = self._documented(workspace, key)
        elif play.fuzz is not None:
            answer = FORBIDDEN      # whatever becomes of it is no success
        else:
            answer = DELETED    # never delivered
        return self._decorated(answer, play)

    def _documented(self, workspace, key):
        if not key or key.startswith("sk_user_unknown"):
            return UNAUTHORIZED
        if not key.startswith("sk_user_") or key.startswith("sk_user_norole"):
            return FORBIDDEN
        if not self.keys.alive(workspace):
            return ABSENT
        self.keys.delete(workspace)
        return DELETED

    def _scripted(self, request, key, play):
        status, body = self._content(key, play)
        headers = []
        if play.redirect is not None:
            url = play.redirect
            if url == "second":
                url = self.second_url + request.target
            headers.append(("Location", url))
        if play.gzip:
            headers.append(("Content-Encoding", "gzip"))
        answer = Answer(status if play.status is None else play.status, body,
                        bodies.TYPES.get(play.body, JSON_TYPE), headers)
        answer.raw = play.raw
        return answer

    @staticmethod
    def _content(key, play):
        """Body of a scripted answer, and the status natural to it."""
        if play.body is not None:
            if play.body not in bodies.NAMED:
                raise scenario.BadDirective("unknown body %s" % play.body)
            return bodies.named(play.body, key)
        if play.redirect is not None:
            return 302, b""
        if play.hex is not None:
            return 200, play.hex
        if play.gzip:
            return 200, gzip_bomb(1 << 20 if play.size is None else play.size)
        if play.size is not None:
            return 200, filler(play.size)
        status = play.status or 200
        return status, bodies.for_status(status,
                                         REASONS.get(status, "Unknown"))

    @staticmethod
    def _decorated(answer, play):
        """A copy of the answer with the headers that the scenario adds."""
        copy = Answer(answer.status, answer.body, None, answer.headers)
        copy.raw = answer.raw
        if play.type is not None:
            copy.headers = [header for header in copy.headers
                            if header[0] != "Content-Type"]
            copy.headers.append(("Content-Type", play.type))
        if play.retry_after is not None:
            copy.headers.append(("Retry-After", play.retry_after))
        copy.headers += play.header
        for number in range(play.headers):
            copy.headers.append(("X-Extra-%d" % number, "x" * 1000))
        return copy


class SecondHost:
    """A host that nobody should ever talk to.

    It says yes to everything: a client that follows a redirect to here, key
    and all, would be glad to believe it.
    """

    def __init__(self, journal):
        self.journal = journal

    def handle(self, request, record):
        return DELETED, None
