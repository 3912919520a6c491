"""A. One warm call: ours against a bare libcurl program, call by call."""

import os
import subprocess

from pq import Session
from stats import cpu_clock, median, pin, spread, table, wall_clock

KEY = "sk_user_0123456789abcdef0123456789abcdef"
KINDS = [("HTTP", "HTTP/1.1 plain"), ("TLS", "HTTP/1.1 TLS"), ("H2", "HTTP/2 TLS")]

# The call alone: nothing of the executor's is between it and the loop.
LIST = ("SELECT count(*) FILTER (WHERE (sendkit_delete_api_key('w' || i, '{key}')).success)"
        " FROM generate_series(1, {n}) AS i")
# As it is documented: a function scan, with a tuplestore made anew for each call.
LATERAL = ("SELECT count(*) FROM generate_series(1, {n}) AS i,"
           " LATERAL sendkit_delete_api_key('w' || i, '{key}') AS r WHERE r.success")


class Bare:
    """bare.c, kept running: its connection stays warm between rounds."""

    def __init__(self, program, server, kind):
        arguments = [program, server.url(kind), KEY]
        if kind != "HTTP" and server.ca:
            arguments.append(server.ca)
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def run(self, calls):
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        wall, cpu = self.process.stdout.readline().split()
        return int(wall) / 1e9 / calls, int(cpu) / 1e9 / calls

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Ours:
    """One session, used in three ways."""

    def __init__(self, server, kind):
        self.session = Session(sendkit__base_url=server.url(kind),
                               sendkit__ca_file=server.ca, jit="off")
        self.pid = self.session.pid
        self.session.prepare("one", "SELECT success FROM sendkit_delete_api_key($1, $2)")

    def close(self):
        self.session.close()

    def _timed(self, calls, function):
        cpu, wall = cpu_clock(self.pid), wall_clock()
        function()
        return (wall_clock() - wall) / calls, (cpu_clock(self.pid) - cpu) / calls

    def _run_statement(self, calls, sql):
        def work():
            done = int(self.session.value(sql.format(n=calls, key=KEY)))
            assert done == calls, f"{done} of {calls} succeeded"
        return self._timed(calls, work)

    def run_list(self, calls):
        return self._run_statement(calls, LIST)

    def run_lateral(self, calls):
        return self._run_statement(calls, LATERAL)

    def run_statements(self, calls):
        """A statement for each call; the client is pinned like everybody else."""
        def work():
            for i in range(calls):
                rows = self.session.execute("one", f"w{i}", KEY)
                assert rows[0][0] == "t", rows
        before = os.sched_getaffinity(0)
        pin([0], os.sched_getaffinity(self.pid))
        try:
            return self._timed(calls, work)
        finally:
            pin([0], before)


WAYS = [(1, "in the select list"), (2, "LATERAL"), (3, "one prepared statement each")]


def compare(context, kind, calls, rounds, cores):
    """Interleaved rounds of bare and our ways; each a list of (wall, CPU) per
    call. Every other round goes backwards, so that none profits from its place.
    Backends inherit their place in memory from the postmaster: a new one for
    each pair of processes."""
    context.restart_postgres()
    server = context.server
    bare, ours = Bare(context.program("bare"), server, kind), Ours(server, kind)
    runs = [bare.run, ours.run_list, ours.run_lateral, ours.run_statements]
    samples = []
    try:
        pin([bare.pid, ours.pid, *server.pids()], cores)
        for run in runs:
            run(calls)
        for i in range(rounds):
            order = range(len(runs))
            sample = {j: runs[j](calls) for j in (reversed(order) if i % 2 else order)}
            samples.append([sample[j] for j in order])
        return samples
    finally:
        pin(server.pids(), os.sched_getaffinity(0))
        bare.close()
        ours.close()


def over_pairs(pairs, figure):
    """A figure of each pair of processes: the median over its rounds."""
    return [median([figure(sample) for sample in samples]) for samples in pairs]


def ratios(pairs, which, clock):
    return over_pairs(pairs, lambda sample: sample[which][clock] / sample[0][clock])


def rows_of(pairs, name):
    def micros(which, clock):
        return f"{median(over_pairs(pairs, lambda sample: sample[which][clock])) * 1e6:.1f}"
    for which, form in WAYS:
        yield [f"{name}, {form}",
               spread(ratios(pairs, which, 0)), spread(ratios(pairs, which, 1)),
               micros(which, 0), micros(0, 0), micros(which, 1), micros(0, 1)]


def measure(context, calls=500, rounds=15, pairs=12):
    cores = sorted(os.sched_getaffinity(0))
    heading = ["", "wall ratio", "CPU ratio", "wall µs, ours", "bare", "CPU µs, ours", "bare"]
    parts = []
    for title, pinned, n in (("Caller and server pinned to one core", True, pairs),
                             ("Not pinned, for information", False, 3)):
        rows = []
        for kind, name in KINDS:
            measured = [compare(context, kind, calls, rounds,
                                {cores[i % len(cores)]} if pinned else set(cores))
                        for i in range(n)]
            rows += rows_of(measured, name)
            wall, cpu = ratios(measured, 1, 0), ratios(measured, 1, 1)
            context.log(f"{title}: {name}: wall {spread(wall)}, CPU {spread(cpu)}")
            if pinned:
                limit = "1.25" if kind == "HTTP" else "1.15"
                context.summarize(f"one warm call, {name}: wall, times bare libcurl",
                                  spread(wall), f"≤ {limit}")
                context.summarize(f"one warm call, {name}: CPU, times bare libcurl",
                                  spread(cpu), f"≤ {limit}")
        parts.append(f"{title}, {n} pairs of processes, {rounds} rounds of {calls} calls each;"
                     " median and range of the pairs' medians:\n\n" + table(heading, rows))
    return "## One warm call\n\n" + "\n\n".join(parts) + "\n"
