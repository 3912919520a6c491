"""G. Background workers: from COMMIT to the request's arrival, what a commit pays
for it, and how fast a worker drains the queue."""

import os
import re
import socket
import ssl
import subprocess
import threading
import time

from one_call import KEY
from pq import Session
from stats import median, spread, table, wall_clock

ANSWER = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 54\r\n\r\n"
          b'{"success":true,"data":{"message":"API key deleted"}} ')
CLEANUP = "TRUNCATE sendkit_revocation; DROP SERVER IF EXISTS sendkit CASCADE"
WORKERS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'sendkit worker'"


class Clerk:
    """An API in this process, which notes when a request for an id arrives. One
    for an id that begins with "hang" is never answered. With TLS if it is given
    a folder with a certificate."""

    def __init__(self, folder=None):
        self.arrivals = {}
        self.arrived = threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._tls = None
        if folder:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(os.path.join(folder, "server.pem"),
                                      os.path.join(folder, "server.key"))
        port = self._socket.getsockname()[1]
        self.url = f"https://localhost:{port}" if folder else f"http://127.0.0.1:{port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self._socket.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        data = b""
        if self._tls:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except (OSError, ssl.SSLError):
                return
        while True:
            while b"\r\n\r\n" not in data:
                try:
                    more = connection.recv(65536)
                except OSError:
                    more = b""
                if not more:
                    return
                data += more
            now = wall_clock()
            head, _, data = data.partition(b"\r\n\r\n")
            name = re.match(rb"DELETE /v1/workspaces/([^/]+)/", head).group(1).decode()
            with self.arrived:
                self.arrivals[name] = now
                self.arrived.notify_all()
            if not name.startswith("hang"):
                connection.sendall(ANSWER)

    def wait_for(self, name):
        with self.arrived:
            if not self.arrived.wait_for(lambda: name in self.arrivals, timeout=60):
                raise SystemExit(f"no request for {name} has arrived")
            return self.arrivals[name]


def configure(url, **settings):
    """For workers, which read the server's settings."""
    with Session() as session:
        session.query("LOAD 'sendkit'")
        session.query(f"ALTER SYSTEM SET sendkit.base_url = '{url}'")
        for name, value in settings.items():
            session.query(f"ALTER SYSTEM SET sendkit.{name} = '{value}'")
        session.query("SELECT pg_reload_conf()")
        end_workers(session)


def end_workers(session):
    """Until they are gone: a process that ends has its libraries clean up after it
    has left the database, which takes as long as to start the next one."""
    pids = session.query(f"SELECT pid, pg_terminate_backend(pid) FROM ({WORKERS}) w")
    # the lock by which commits find a worker outlives its session
    while (session.query(f"{WORKERS} UNION ALL SELECT pid FROM pg_locks"
                         f" WHERE locktype = 'advisory' AND objsubid = {0x5E02}")
           or any(os.path.exists(f"/proc/{pid}") for pid, _ in pids)):
        time.sleep(0.001)


def commit(session, clerk, name):
    """Seconds from COMMIT to the arrival of the request"""
    session.query("BEGIN")
    session.query(f"SELECT sendkit_request_revocation('{name}')")
    start = wall_clock()
    session.query("COMMIT")
    return clerk.wait_for(name) - start


def latencies(context, session, watcher, count):
    rows = []
    clerk = None

    def there(i):
        return commit(session, clerk, f"there-{i}")

    def started(i):
        end_workers(watcher)
        return commit(session, clerk, f"started-{i}")

    for name, folder, way, rounds, prepare, wanted in [
            ("right after another one, with the worker there", None, there, count, "first", 3),
            ("while another request hangs", None, there, count, "hang", 3),
            ("with a worker to be started", None, started, count // 5, "first", 30),
            ("with a worker to be started, over TLS", context.server.folder, started,
             count // 5, "first", None)]:
        clerk = Clerk(folder)
        configure(clerk.url, ca_file=context.server.ca)
        commit(session, clerk, prepare)
        samples = sorted(way(i) * 1e3 for i in range(rounds))
        row = [name, f"{median(samples):.2f}", f"{samples[len(samples) * 99 // 100]:.2f}",
               f"{samples[-1]:.2f}"]
        rows.append(row)
        context.log(f"latency: {row}")
        context.summarize(f"COMMIT to the request's arrival, {name}: median of {rounds:,}",
                          f"{row[1]} ms", f"≤ {wanted} ms" if wanted else "")
        session.query("TRUNCATE sendkit_revocation")
    # commits are to be paid for while an API is silent
    configure(Clerk().url)
    return table(["", "median, ms", "99 %", "worst"], rows)


def transactions_per_second(context, deliver, seconds):
    script = os.path.join(context.work, "enqueue.sql")
    with open(script, "w") as f:
        f.write("SELECT sendkit_request_revocation('hang');\n")
    with Session() as session:
        end_workers(session)
        session.query("TRUNCATE sendkit_revocation")
    text = subprocess.run(["pgbench", "-n", "-f", script, "-T", str(seconds), "-c", "2"],
                          check=True, capture_output=True, text=True,
                          env=dict(os.environ,
                                   PGOPTIONS=f"-c sendkit.auto_deliver={deliver}")).stdout
    return float(re.search(r"tps = ([\d.]+)", text).group(1))


def commits(context, rounds, seconds):
    ratios = []
    for i in range(rounds):
        turn = {}
        for deliver in ("on", "off") if i % 2 else ("off", "on"):
            turn[deliver] = transactions_per_second(context, deliver, seconds)
        ratios.append(turn["on"] / turn["off"])
        context.log(f"commits: {turn}")
    context.summarize("pgbench of the enqueuing function, delivery on and the API silent, to off",
                      spread(ratios), "≥ 0.95")
    return f"Transactions per second with delivery on and the API silent, to off: {spread(ratios)}."


def drain(context, count, rounds):
    """A queue that a worker works off, and a direct call for as many"""
    server = context.server
    settings = {"ca_file": server.ca, "max_concurrency": 100}
    configure(server.url("H2", "/slow"), **settings)
    ratios = []
    for i in range(rounds):
        with Session(sendkit__auto_deliver="off") as session:
            start = wall_clock()
            session.query("SELECT count(*) FROM sendkit_delete_api_keys("
                          f"ARRAY(SELECT 'w' || i FROM generate_series(1, {count}) AS i))")
            direct = wall_clock() - start
            session.query("TRUNCATE sendkit_revocation")
            session.query("SELECT count(sendkit_request_revocation('w' || i))"
                          f" FROM generate_series(1, {count}) AS i")
            session.query("SET sendkit.auto_deliver = on")
            start = wall_clock()
            session.query("SELECT sendkit_request_revocation('last')")
            while session.query("SELECT 1 FROM sendkit_revocation"
                                " WHERE finished_at IS NULL LIMIT 1"):
                time.sleep(0.02)
            queue = wall_clock() - start
        ratios.append(direct / queue)
        context.log(f"drain: {direct:.2f} s directly, {queue:.2f} s by the worker")
    context.summarize(f"{count:,} queued revocations drained by the worker:"
                      " rate, to that of one direct call", spread(ratios), "≥ 0.8")
    return f"Rate at which a worker drains {count:,}, to that of one direct call: {spread(ratios)}."


def measure(context, count=1000, rounds=3):
    try:
        with Session() as session:
            session.query(CLEANUP)
            session.query("CREATE SERVER sendkit FOREIGN DATA WRAPPER sendkit_fdw")
            session.query("CREATE USER MAPPING FOR PUBLIC SERVER sendkit"
                          f" OPTIONS (platform_key '{KEY}')")
        with Session(sendkit__auto_deliver="on") as session, Session() as watcher:
            parts = ["### From COMMIT to the request's arrival\n",
                     latencies(context, session, watcher, count),
                     "### What commits pay, and how fast the queue drains\n",
                     commits(context, rounds, 10), drain(context, 50_000, rounds)]
    finally:
        with Session() as session:
            session.query("ALTER SYSTEM RESET ALL")
            session.query("SELECT pg_reload_conf()")
            end_workers(session)
            session.query(CLEANUP)
    return "## Background workers\n\n" + "\n\n".join(parts) + "\n"
