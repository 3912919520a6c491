"""E. Many calls at a time, against the limit and against other ways."""

import os
import resource
import shlex
import subprocess
import threading
import time

from endurance import anonymous_kb
from one_call import KEY, KINDS, LATERAL
from pq import Session
from server import HERE
from stats import cpu_clock, median, spread, table, wall_clock

SLOW = "/slow"
BULK = ("SELECT count(*) FILTER (WHERE success) FROM sendkit_delete_api_keys("
        "ARRAY(SELECT 'w' || i FROM generate_series(1, {n}) AS i), '{key}')")


class Task:
    """So many calls, to this server, in this protocol, at this delay, so many at
    a time. What runs it returns seconds of (wall, CPU), from cold."""

    def __init__(self, context, kind, path, calls, concurrency):
        self.context = context
        self.server = context.server
        self.kind = kind
        self.calls = calls
        self.concurrency = concurrency
        self.url = self.server.url(kind, path)

    def session(self):
        return Session(sendkit__base_url=self.url, sendkit__ca_file=self.server.ca,
                       sendkit__max_concurrency=self.concurrency, jit="off")

    def curl(self):
        command = ["curl", "-sS", "-X", "DELETE", "-H", f"X-Api-Key: {KEY}",
                   "-H", "Content-Type: application/json", "-H", "Accept: application/json",
                   f"{self.url}/v1/workspaces/{{}}/api-key"]
        return command + ([] if self.kind == "HTTP" else ["--cacert", self.server.ca])


def timed_statement(session, sql, calls):
    def used():
        # children, too: those of COPY FROM PROGRAM, in ticks
        with open(f"/proc/{session.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        children = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return cpu_clock(session.pid) + children
    wall, cpu = wall_clock(), used()
    done = session.value(sql)
    sample = wall_clock() - wall, used() - cpu
    assert int(done) == calls, f"{done} of {calls} succeeded"
    return sample


def ours(task):
    with task.session() as session:
        return timed_statement(session, BULK.format(n=task.calls, key=KEY), task.calls)


def bare_multi(task):
    connections = 1 if task.kind == "H2" else task.concurrency
    command = [task.context.program("bare_multi"), task.url, KEY, str(task.calls),
               str(task.concurrency), str(connections)]
    if task.kind != "HTTP":
        command.append(task.server.ca)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(int(nanoseconds) / 1e9 for nanoseconds in output.split())


def plpython_pool(task):
    with Session() as session:
        return timed_statement(
            session, f"SELECT plpython_pool({task.calls}, '{KEY}', {task.concurrency},"
            f" '{task.url}', '{task.server.ca}')", task.calls)


def scaled(task, calls, run):
    """For ways so slow that fewer calls must do."""
    calls = min(calls, task.calls)
    wall, cpu = run(calls)
    return wall * task.calls / calls, cpu * task.calls / calls


def sequential(task):
    def run(calls):
        with task.session() as session:
            return timed_statement(session, LATERAL.format(n=calls, key=KEY), calls)
    return scaled(task, 100 if SLOW in task.url else task.calls, run)


def copy_from_curl(task):
    def run(calls):
        command = shlex.join(task.curl()).replace("'", "''")
        with Session() as session:
            return timed_statement(session, f"SELECT copy_from_curl({calls}, '{command}')", calls)
    return scaled(task, 50, run)


def xargs_curl(task):
    def run(calls):
        ids = "".join(f"w{i}\n" for i in range(calls))
        wall, before = wall_clock(), resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(["xargs", "-P", str(task.concurrency), "-I", "{}", *task.curl()],
                                input=ids, text=True, capture_output=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert output.count('"success": true') == calls
        return (wall_clock() - wall,
                after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return scaled(task, 300, run)


# name, the plot's name, what runs it
OTHERS = [("PL/Python, a pool of threads (HTTP/1.1 only)", "PL/Python pool", plpython_pool),
          ("ours, one call after the other", "ours, singly", sequential),
          ("`xargs -P curl`, a process per key", "xargs -P curl", xargs_curl),
          ("`COPY FROM PROGRAM 'curl'`, one after the other", "COPY, curl", copy_from_curl)]


def interleave(task, rounds):
    """Samples of (bare, ours); every other round goes backwards."""
    samples = []
    for i in range(rounds):
        if i % 2:
            mine, bare = ours(task), bare_multi(task)
        else:
            bare, mine = bare_multi(task), ours(task)
        samples.append((bare, mine))
    return samples


def server_share(task):
    """How busy the server is while the bare program runs."""
    pid = task.server.pids()[0]
    cpu = cpu_clock(pid)
    wall, _ = bare_multi(task)
    return (cpu_clock(pid) - cpu) / wall


def limit_row(name, task, rounds):
    samples = interleave(task, rounds)
    ratios = [[mine[clock] / bare[clock] for bare, mine in samples] for clock in (0, 1)]
    if SLOW in task.url:
        task.context.summarize(f"1,000 calls at 50 ms, {name}: wall, times bare libcurl multi",
                               spread(ratios[0]),
                               "≤ 1.2" if task.concurrency == 1000 else "≤ 1.05")
    else:
        task.context.summarize(f"5,000 calls at once, {name}: CPU, times bare libcurl multi",
                               spread(ratios[1]), "≤ 1.3")

    def millis(which, clock):
        return f"{median([sample[which][clock] for sample in samples]) * 1e3:.0f}"
    return [name, spread(ratios[0]), spread(ratios[1]), millis(1, 0), millis(0, 0),
            millis(1, 1), millis(0, 1), f"{server_share(task):.0%}"]


LIMIT_HEADINGS = ["", "wall ratio", "CPU ratio", "wall ms, ours", "bare", "CPU ms, ours", "bare",
                  "server busy"]


def against_the_limit(context, path, calls, concurrencies, rounds):
    rows = []
    for concurrency, kinds in concurrencies:
        for kind, name in KINDS:
            if kind in kinds:
                task = Task(context, kind, path, calls, concurrency)
                rows.append(limit_row(f"{name}, {concurrency} at a time", task, rounds))
                context.log(f"bulk: {calls} calls {path or 'at once'}: {rows[-1]}")
    return table(LIMIT_HEADINGS, rows)


def against_others(context, path, calls, concurrency, rounds, plot):
    """All ways, in turn; ratios to the bare program."""
    rows = []
    for kind, name in KINDS:
        task = Task(context, kind, path, calls, concurrency)
        ways = [("ours", "ours", ours), *OTHERS]
        samples = []  # (bare, [every way])
        for _ in range(rounds):
            bare = bare_multi(task)
            samples.append((bare, [way(task) for _, _, way in ways]))
        rows.append([f"{name}: bare libcurl multi", "1", "1",
                     f"{median([s[0][0] for s in samples]):.2f}",
                     f"{median([s[0][1] for s in samples]) / calls * 1e6:.0f}"])
        for i, (way, label, _) in enumerate(ways):
            ratios = [[sample[1][i][clock] / sample[0][clock] for sample in samples]
                      for clock in (0, 1)]
            rows.append([f"{name}: {way}", spread(ratios[0]), spread(ratios[1]),
                         f"{median([s[1][i][0] for s in samples]):.2f}",
                         f"{median([s[1][i][1] for s in samples]) / calls * 1e6:.0f}"])
            plot.append((name, label, median(ratios[0]), median(ratios[1])))
            context.log(f"bulk: {rows[-1]}")
    return table(["", "wall ratio", "CPU ratio", "wall s", "CPU µs per call"], rows)


def stalls(context, path, batches, calls):
    """Warm batches over HTTP/2: a histogram of their times."""
    task = Task(context, "H2", path, calls, calls)
    times = []
    with task.session() as session:
        for _ in range(batches + 1):
            times.append(timed_statement(session, BULK.format(n=calls, key=KEY), calls)[0] * 1e3)
    times = times[1:]
    edges = [0, 5, 10, 20, 50, 100, 200, float("inf")]
    counts = [sum(low <= t < high for t in times) for low, high in zip(edges, edges[1:])]
    context.log(f"stalls: {counts}, worst {max(times):.1f} ms")
    delay = "50 ms" if path else "none"
    context.summarize(f"{batches:,} batches of {calls} over HTTP/2, delay {delay}: over 200 ms",
                      f"{counts[-1]} (worst {max(times):.0f} ms)", "0")
    return [delay, *[str(count) for count in counts], f"{median(times):.1f}", f"{max(times):.1f}"]


def memory(context, calls):
    """Anonymous memory of a fresh backend: before, at most during, and after."""
    task = Task(context, "H2", "", calls, 100)
    with task.session() as session:
        peak = [anonymous_kb(session.pid)]
        before, over = peak[0], threading.Event()

        def watch():
            while not over.is_set():
                peak[0] = max(peak[0], anonymous_kb(session.pid))
                time.sleep(0.005)
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            timed_statement(session, BULK.format(n=calls, key=KEY), calls)
        finally:
            over.set()
            watcher.join()
        after = anonymous_kb(session.pid)
    context.log(f"memory: {before} {peak[0]} {after} kB")
    context.summarize(f"{calls:,} ids in one statement: the backend's memory",
                      f"{peak[0] / 1024:.0f} MB", "bounded")
    return (f"{calls:,} ids in one statement, HTTP/2, 100 at a time: the backend's anonymous memory"
            f" is {before / 1024:.1f} MB before, at most {peak[0] / 1024:.1f} MB during, and"
            f" {after / 1024:.1f} MB after it"
            f" ({(peak[0] - before) * 1024 / calls:.0f} bytes per id).")


def load_generator(context):
    """What the server can do, by a program made to find out."""
    rows = []
    for kind, name in KINDS:
        protocol = ["--h1"] if kind != "H2" else ["-m", "100"]
        clients = "1" if kind == "H2" else "32"
        output = subprocess.run(["h2load", *protocol, "-n", "50000", "-c", clients, "-t", "1",
                                 "-H", ":method: DELETE", "-H", f"X-Api-Key: {KEY}",
                                 context.server.url(kind, "/v1/workspaces/w1/api-key")],
                                check=True, capture_output=True, text=True).stdout
        finished = next(line for line in output.splitlines() if line.startswith("finished in"))
        per_second = float(finished.split(",")[1].split()[0])
        rates = [5000 / bare_multi(Task(context, kind, "", 5000, 32))[0] for _ in range(5)]
        rows.append([name, f"{per_second:.0f}", f"{median(rates):.0f}"])
    return table(["", "h2load, requests/s", "bare libcurl multi, 32 at a time"], rows)


def draw(context, slow, fast):
    """Two panels of bars, on logarithmic axes."""
    out = os.path.join(context.out, "results.svg")
    for name, plot, column in (("slow", slow, 2), ("fast", fast, 3)):
        with open(os.path.join(context.work, f"{name}.dat"), "w") as f:
            f.write("way " + " ".join(f'"{kind[1]}"' for kind in KINDS) + "\n")
            for way in dict.fromkeys(point[1] for point in plot):
                values = [f"{point[column]:.3f}" for point in plot if point[1] == way]
                f.write(f'"{way}" {" ".join(values)}\n')
    subprocess.run(["gnuplot", "-e", f"out='{out}'; slow='{context.work}/slow.dat';"
                    f" fast='{context.work}/fast.dat'", os.path.join(HERE, "plot.gp")], check=True)


def measure(context, rounds=11):
    with Session() as session:
        with open(os.path.join(HERE, "pool.sql")) as f:
            session.query(f.read())
    everything = ("HTTP", "TLS", "H2")
    slow, fast = [], []
    parts = [
        "### Against the limit, 1,000 calls, 50 ms server delay",
        against_the_limit(context, SLOW, 1000,
                          [(32, everything), (100, everything), (1000, ("H2",))], rounds),
        "### Against the limit, 5,000 calls, no delay",
        against_the_limit(context, "", 5000, [(32, everything), (100, everything)], rounds),
        "### Against other ways, 1,000 calls, 50 ms server delay, 32 at a time",
        against_others(context, SLOW, 1000, 32, 3, slow),
        "### Against other ways, 5,000 calls, no delay, 32 at a time",
        against_others(context, "", 5000, 32, 3, fast),
        "### Stalls: warm batches of 100 over one HTTP/2 connection",
        table(["delay", "< 5 ms", "< 10", "< 20", "< 50", "< 100", "< 200", "more", "median ms",
               "worst ms"],
              [stalls(context, "", 1000, 100), stalls(context, SLOW, 200, 100)]),
        "### Memory", memory(context, 100_000),
        "### The server's own limit", load_generator(context)]
    draw(context, slow, fast)
    return "## Many calls at a time\n\n" + "\n\n".join(parts) + "\n"
