"""What the stand-in saw: one record per request, and counts.

Every site (the API, the second host, the proxy) owns one Journal.  Connections
tell it when they open and close and when a request begins and ends.  A request
is in flight from its last byte received until its last byte answered, or until
its connection or stream is gone.  Counting goes on when recording is off: at
full speed the records of a benchmark would cost more than the requests.
"""

import time
from collections import Counter

STARTED = time.monotonic()


class Record:
    """One request, as GET /requests shows it."""

    __slots__ = ("n", "listener", "connection", "request", "id", "status",
                 "at", "in_flight")

    def __init__(self, n, connection, request, in_flight):
        self.n = n
        self.listener = connection.listener
        self.connection = connection.number
        self.request = request
        self.id = None
        self.status = None
        self.at = time.monotonic() - STARTED
        self.in_flight = in_flight

    def as_dict(self):
        request = self.request
        return {
            "n": self.n,
            "listener": self.listener,
            "connection": self.connection,
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "headers": request.headers,
            "body_length": len(request.body),
            "id": self.id,
            "status": self.status,
            "at": round(self.at, 6),
            "in_flight": self.in_flight,
        }


class Journal:
    def __init__(self, keep_records=True):
        self.keep_records = keep_records
        self.connections = set()
        self.last_number = 0
        self.in_flight = 0
        self.reset()

    def reset(self):
        """Forget the past.  What is open or in flight now stays counted."""
        self.records = []
        self.requests = Counter()
        self.total = 0
        self.accepted = Counter()
        self.opened = Counter()
        self.statuses = Counter()
        self.max_open = len(self.connections)
        self.max_in_flight = self.in_flight
        self.max_per_connection = max(
            (connection.in_flight for connection in self.connections),
            default=0)

    def connection_accepted(self, listener):
        """Note a TCP connection; TLS may yet fail before it is opened."""
        self.accepted[listener] += 1

    def connection_opened(self, connection):
        """Note a connection and return its number."""
        self.connections.add(connection)
        self.opened[connection.listener] += 1
        self.max_open = max(self.max_open, len(self.connections))
        self.last_number += 1
        return self.last_number

    def connection_closed(self, connection):
        self.connections.discard(connection)

    def request_began(self, connection, request):
        self.in_flight += 1
        if self.in_flight > self.max_in_flight:
            self.max_in_flight = self.in_flight
        connection.in_flight += 1
        if connection.in_flight > self.max_per_connection:
            self.max_per_connection = connection.in_flight
        self.requests[connection.listener] += 1
        self.total += 1
        record = Record(self.total, connection, request, self.in_flight)
        if self.keep_records:
            self.records.append(record)
        return record

    def answered(self, record, status):
        """A whole status and header section went out for this request."""
        record.status = status
        self.statuses[status] += 1

    def request_ended(self, connection):
        self.in_flight -= 1
        connection.in_flight -= 1

    def stats(self):
        return {
            "requests": dict(self.requests, total=self.total),
            "accepted": dict(self.accepted, total=sum(self.accepted.values())),
            "connections": dict(self.opened, total=sum(self.opened.values())),
            "open": len(self.connections),
            "max_open": self.max_open,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "max_in_flight_per_connection": self.max_per_connection,
            "statuses": {str(status): count
                         for status, count in self.statuses.items()},
        }
