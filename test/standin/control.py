"""The control port: what the stand-in saw, and how it shall behave at large.

A site like the others, on a plain HTTP/1.1 connection; each call is a row of
CALLS.  A call gets the query's fields and the JSON body and returns what is to
be sent back as JSON.
"""

import json
from urllib.parse import parse_qsl, urlsplit

import bodies
import scenario
from flood import Flooder
from journal import Journal
from limit import RateLimit
from message import Answer


class BadCall(ValueError):
    """The caller's mistake."""


def _listing(journal, query):
    """Records, on demand only those of one id, only some of their fields."""
    records = [record.as_dict() for record in journal.records]
    if "id" in query:
        records = [one for one in records if one["id"] == query["id"]]
    if "fields" in query:
        names = query["fields"].split(",")
        records = [{name: one[name] for name in names} for one in records]
    return records


class Control:
    def __init__(self, api, second, proxy, listeners):
        self.api = api
        self.second = second
        self.proxy = proxy
        self.listeners = listeners
        self.journal = Journal(keep_records=False)

    def handle(self, request, record):
        url = urlsplit(request.target)
        try:
            call = self.CALLS.get((request.method, url.path))
            if call is None:
                raise BadCall("no such call; there are: " + ", ".join(
                    "%s %s" % name for name in sorted(self.CALLS)))
            result = call(self, dict(parse_qsl(url.query)),
                          json.loads(request.body or b"{}"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._reply(400, {"error": "%s: %s" % (
                type(error).__name__, error)}), None
        return self._reply(200, {"ok": True} if result is None else result), None

    @staticmethod
    def _reply(status, value):
        return Answer(status, json.dumps(value).encode() + b"\n")

    # What was seen

    def requests(self, query, body):
        return _listing(self.api.journal, query)

    def second_requests(self, query, body):
        return _listing(self.second.journal, query)

    def proxy_requests(self, query, body):
        return _listing(self.proxy.journal, query)

    def stats(self, query, body):
        return self.api.journal.stats()

    def keys(self, query, body):
        if "id" not in query:
            return self.api.keys.known
        return {"id": query["id"], "alive": self.api.keys.alive(query["id"])}

    # How to behave

    def reset(self, query, body):
        self.api.reset()
        self.second.journal.reset()
        self.proxy.reset()

    def restore(self, query, body):
        for workspace in body["restore"]:
            self.api.keys.restore(workspace)

    def limit(self, query, body):
        self.api.limit = RateLimit(**body) if body else None

    def default(self, query, body):
        directives = body.get("directives", "")
        scenario.parse(directives)
        self.api.default = directives
        self.api.played.clear()

    def add_bodies(self, query, body):
        for name, value in body.items():
            status = 200
            if isinstance(value, dict):
                status = value.get("status", status)
                value = (bytes.fromhex(value["hex"]) if "hex" in value
                         else value["text"].encode())
            else:
                value = value.encode()
            bodies.NAMED[name] = (status, value)

    def refuse_proxy(self, query, body):
        self.proxy.refusal = body.get("status")
        self.proxy.raw = bytes.fromhex(body["raw"]) if "raw" in body else None

    # What becomes of connections

    def _connections(self):
        return list(self.api.journal.connections)

    def close_idle(self, query, body):
        idle = [one for one in self._connections() if not one.in_flight]
        idle = idle[:body.get("count", len(idle))]
        for connection in idle:
            connection.end(body.get("how", "fin"))
        return {"closed": len(idle)}

    def goaway(self, query, body):
        told = [one for one in self._connections()
                if hasattr(one, "retire")]
        for connection in told:
            connection.retire()
        return {"told": len(told)}

    def stop(self, query, body):
        for listener in self.listeners:
            listener.close()
        for connection in self._connections():
            connection.end("reset")

    def end_floods(self, query, body):
        for flooder in Flooder.everybody:
            flooder.end()

    def start(self, query, body):
        for listener in self.listeners:
            listener.open()

    CALLS = {
        ("GET", "/requests"): requests,
        ("GET", "/second-requests"): second_requests,
        ("GET", "/proxy-requests"): proxy_requests,
        ("GET", "/stats"): stats,
        ("GET", "/keys"): keys,
        ("POST", "/keys"): restore,
        ("POST", "/reset"): reset,
        ("POST", "/limit"): limit,
        ("POST", "/default"): default,
        ("POST", "/bodies"): add_bodies,
        ("POST", "/proxy"): refuse_proxy,
        ("POST", "/close-idle"): close_idle,
        ("POST", "/goaway"): goaway,
        ("POST", "/end-floods"): end_floods,
        ("POST", "/stop"): stop,
        ("POST", "/start"): start,
    }
