"""Just enough of libpq, which every PostgreSQL brings along: sessions that can
be timed and cancelled without another package or a process in between."""

import ctypes
import os
import select
import subprocess

TUPLES_OK = 2
COMMAND_OK = 1


def _load():
    libdir = subprocess.run([os.environ["PG_CONFIG"], "--libdir"], check=True,
                            capture_output=True, text=True).stdout.strip()
    for name in ("libpq.so.5", os.path.join(libdir, "libpq.so.5")):
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    raise SystemExit("libpq.so.5 not found")


_pq = _load()
for _name, _result in [("PQconnectdb", ctypes.c_void_p), ("PQexec", ctypes.c_void_p),
                       ("PQprepare", ctypes.c_void_p), ("PQexecPrepared", ctypes.c_void_p),
                       ("PQgetResult", ctypes.c_void_p), ("PQgetCancel", ctypes.c_void_p),
                       ("PQgetvalue", ctypes.c_char_p), ("PQerrorMessage", ctypes.c_char_p),
                       ("PQresultErrorMessage", ctypes.c_char_p),
                       ("PQresultErrorField", ctypes.c_char_p)]:
    getattr(_pq, _name).restype = _result
for _name in ("PQexec", "PQresultStatus", "PQclear", "PQntuples", "PQgetisnull", "PQgetvalue",
              "PQnfields", "PQfinish", "PQstatus", "PQbackendPID", "PQerrorMessage", "PQsocket",
              "PQsendQuery", "PQgetResult", "PQconsumeInput", "PQisBusy", "PQgetCancel",
              "PQcancel", "PQfreeCancel", "PQprepare", "PQexecPrepared", "PQresultErrorMessage",
              "PQresultErrorField", "PQsetNoticeProcessor"):
    getattr(_pq, _name).argtypes = None

_SQLSTATE = ord("C")
_NOTICES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)
_no_notices = _NOTICES(lambda _arg, _message: None)


def _p(pointer):
    return ctypes.c_void_p(pointer)


class SqlError(Exception):
    def __init__(self, message, sqlstate):
        super().__init__(message)
        self.sqlstate = sqlstate


class Session:
    """One connection, one backend. Where to: PGHOST and the like."""

    def __init__(self, **settings):
        self._conn = _p(_pq.PQconnectdb(b""))
        if _pq.PQstatus(self._conn) != 0:
            raise SqlError(_pq.PQerrorMessage(self._conn).decode(), None)
        _pq.PQsetNoticeProcessor(self._conn, _no_notices, None)
        self.pid = _pq.PQbackendPID(self._conn)
        for name, value in settings.items():
            self.query(f"SET {name.replace('__', '.')} = '{value}'")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._conn:
            _pq.PQfinish(self._conn)
            self._conn = None

    def _take(self, result):
        result = _p(result)
        try:
            if not result or _pq.PQresultStatus(result) not in (TUPLES_OK, COMMAND_OK):
                state = _pq.PQresultErrorField(result, _SQLSTATE) if result else None
                raise SqlError(_pq.PQerrorMessage(self._conn).decode().strip(),
                               state.decode() if state else None)
            return [[None if _pq.PQgetisnull(result, row, column)
                     else _pq.PQgetvalue(result, row, column).decode()
                     for column in range(_pq.PQnfields(result))]
                    for row in range(_pq.PQntuples(result))]
        finally:
            if result:
                _pq.PQclear(result)

    def query(self, sql):
        return self._take(_pq.PQexec(self._conn, sql.encode()))

    def value(self, sql):
        return self.query(sql)[0][0]

    def prepare(self, name, sql):
        self._take(_pq.PQprepare(self._conn, name.encode(), sql.encode(), 0, None))

    def execute(self, name, *arguments):
        values = (ctypes.c_char_p * len(arguments))(*[a.encode() for a in arguments])
        return self._take(_pq.PQexecPrepared(self._conn, name.encode(), len(arguments),
                                             values, None, None, 0))

    def send(self, sql):
        if not _pq.PQsendQuery(self._conn, sql.encode()):
            raise SqlError(_pq.PQerrorMessage(self._conn).decode(), None)

    def is_busy(self, timeout=0.0):
        """After send(): is there no result yet, not even after so long?"""
        if _pq.PQisBusy(self._conn):
            select.select([_pq.PQsocket(self._conn)], [], [], timeout)
            _pq.PQconsumeInput(self._conn)
        return bool(_pq.PQisBusy(self._conn))

    def receive(self):
        rows = []
        failure = None
        while True:
            result = _pq.PQgetResult(self._conn)
            if not result:
                break
            try:
                rows = self._take(result)
            except SqlError as error:
                failure = error
        if failure:
            raise failure
        return rows

    def cancel(self):
        handle = _p(_pq.PQgetCancel(self._conn))
        buffer = ctypes.create_string_buffer(256)
        _pq.PQcancel(handle, buffer, len(buffer))
        _pq.PQfreeCancel(handle)
