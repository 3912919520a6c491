"""D. How long an interrupt takes while the API, or the name server, is stuck."""

import os
import subprocess
import time

from one_call import KEY
from pq import Session, SqlError
from server import HERE, Silent
from stats import median, table, wall_clock

CALL = f"SELECT * FROM sendkit_delete_api_key('stuck', '{KEY}')"
STUCK_HOST = "stuck.example"
TIMEOUT = 0.2


def with_stuck_resolver(context):
    """Restarts the server with a getaddrinfo() that hangs for one name."""
    library = os.path.join(context.work, "stuck_resolver.so")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library,
                    os.path.join(HERE, "..", "test", "preload", "stuck_resolver.c"), "-ldl"],
                   check=True)
    environment = dict(os.environ, LD_PRELOAD=library, STUCK_HOST=STUCK_HOST, STUCK_SECONDS="15")
    context.restart_postgres(environment)


def wait_until_waiting(watcher, pid):
    for _ in range(1000):
        if watcher.query("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                         f" AND wait_event_type = 'Extension' AND pid = {pid}"):
            return
        time.sleep(0.005)
    raise SystemExit("the call never began to wait")


def expect_end(session, sqlstates):
    try:
        session.receive()
    except SqlError as error:
        assert error.sqlstate in sqlstates, f"{error.sqlstate}: {error}"
        return
    raise SystemExit("the call was not interrupted")


def cancel(session, watcher):
    session.send(CALL)
    wait_until_waiting(watcher, session.pid)
    start = wall_clock()
    session.cancel()
    expect_end(session, ("57014",))
    return wall_clock() - start


def terminate(session, watcher):
    session.send(CALL)
    wait_until_waiting(watcher, session.pid)
    start = wall_clock()
    watcher.query(f"SELECT pg_terminate_backend({session.pid})")
    expect_end(session, ("57P01", None))
    return wall_clock() - start


def time_out(session, _watcher):
    session.query(f"SET statement_timeout = '{int(TIMEOUT * 1000)}ms'")
    start = wall_clock()
    session.send(CALL)
    expect_end(session, ("57014",))
    return wall_clock() - start - TIMEOUT


def measure(context, times=20):
    silent = Silent()
    with_stuck_resolver(context)
    places = {"waiting for the answer (plain)": silent.url("http"),
              "shaking hands (TLS)": silent.url("https"),
              "resolving the name": f"https://{STUCK_HOST}"}
    ways = {"cancel (as by psql)": cancel, "pg_terminate_backend": terminate,
            "statement_timeout": time_out}
    rows, everything = [], []
    for place, url in places.items():
        row = [place]
        for way in ways.values():
            samples = []
            for _ in range(times):
                with Session() as watcher, Session(
                        sendkit__base_url=url, sendkit__ca_file=context.server.ca,
                        sendkit__connect_timeout="30s") as session:
                    samples.append(way(session, watcher) * 1e3)
            everything += samples
            row.append(f"{median(samples):.1f} / {max(samples):.1f}")
        rows.append(row)
        context.log(f"interrupts: {row}")
    context.summarize("cancel, terminate, statement_timeout: median / worst",
                      f"{median(everything):.1f} / {max(everything):.1f} ms", "≤ 50 ms")
    return ("## Interrupts\n\nFrom the interrupt to the end of the statement (for"
            f" statement_timeout: beyond it), {times} times each, ms, median / worst:\n\n"
            + table([""] + list(ways), rows) + "\n")
