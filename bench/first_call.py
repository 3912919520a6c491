"""B. What a new connection costs: the first call of a fresh backend, and calls
to a server that closes the connection after each answer."""

from one_call import KEY, LIST, Bare
from pq import Session
from stats import cpu_clock, median, spread, table, wall_clock

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CALL = f"SELECT * FROM sendkit_delete_api_key('first', '{KEY}')"


class SystemTrust:
    """The server, as bare.c shall see it with libcurl's defaults: both the
    bundle and the folder."""

    def __init__(self, server):
        self.url = server.url
        self.ca = ""


def session_for(server, kind, ca_file):
    return Session(sendkit__base_url=server.url(kind), sendkit__ca_file=ca_file, jit="off")


def first_call(server, ca_file):
    """Loads the library, initializes libcurl, connects, shakes hands, calls."""
    with session_for(server, "H2", ca_file) as session:
        wall, cpu = wall_clock(), cpu_clock(session.pid)
        row = session.query(CALL)[0]
        sample = wall_clock() - wall, cpu_clock(session.pid) - cpu
        assert row[0] == "t", row
        return sample


def first_call_bare(context, server):
    bare = Bare(context.program("bare"), server, "H2")
    try:
        return bare.run(1)
    finally:
        bare.close()


def fresh_connections(server, ca_file, calls):
    with session_for(server, "ONCE", ca_file) as session:
        session.query(CALL)
        wall, cpu = wall_clock(), cpu_clock(session.pid)
        done = int(session.value(LIST.format(n=calls, key=KEY)))
        assert done == calls, f"{done} of {calls} succeeded"
        return wall_clock() - wall, cpu_clock(session.pid) - cpu


def fresh_connections_bare(context, server, calls):
    bare = Bare(context.program("bare"), server, "ONCE")
    try:
        bare.run(1)
        return [total * calls for total in bare.run(calls)]
    finally:
        bare.close()


def measure(context, rounds=20, calls=100):
    if not context.trusted:
        return ("## New connections\n\nNot measured: only root can lend the benchmark's CA to"
                " the system's trust store.\n")
    server, defaults = context.server, SystemTrust(context.server)
    first = {"ours, the system's trust store": lambda: first_call(server, ""),
             "ours, `ca_file` set to the system's bundle": lambda: first_call(server, BUNDLE),
             "bare libcurl in a new process, its defaults":
                 lambda: first_call_bare(context, defaults)}
    fresh = {"ours, the system's trust store": lambda: fresh_connections(server, "", calls),
             "ours, `ca_file` set to the system's bundle":
                 lambda: fresh_connections(server, BUNDLE, calls),
             "bare libcurl, its defaults":
                 lambda: fresh_connections_bare(context, defaults, calls)}
    parts = []
    for title, ways, n in (("First call of a fresh backend, HTTP/2 over TLS", first, rounds),
                           (f"{calls} calls, each on a TLS connection of its own", fresh, 5)):
        samples = [{name: way() for name, way in ways.items()} for _ in range(n)]
        parts.append(f"{title}, {n} times:\n\n" + table(
            ["", "ms", "ms of CPU"],
            [[name, spread([s[name][0] for s in samples], 1e3, 1),
              spread([s[name][1] for s in samples], 1e3, 1)] for name in ways]))
        context.log(f"{title}:\n{parts[-1]}")
        own = [sample["ours, the system's trust store"][0] * 1e3 for sample in samples]
        context.summarize(title[0].lower() + title[1:], f"{median(own):.1f} ms",
                          "≤ 15 ms" if ways is first else "≪ 3,900 ms")
    return "## New connections\n\n" + "\n\n".join(parts) + "\n"
