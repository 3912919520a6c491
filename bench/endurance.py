"""C. Many calls in one backend: memory and descriptors must stay flat."""

import os
import re

from one_call import KEY, KINDS, LIST
from pq import Session
from stats import table

MARKS = (1_000, 10_000, 50_000, 100_000)


def anonymous_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+) kB", f.read()).group(1))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def run(server, kind):
    """(memory, descriptors) after so many calls"""
    with Session(sendkit__base_url=server.url(kind), sendkit__ca_file=server.ca,
                 jit="off") as session:
        made, samples = 0, []
        for mark in MARKS:
            while made < mark:
                assert session.value(LIST.format(n=1000, key=KEY)) == "1000"
                made += 1000
            samples.append((anonymous_kb(session.pid), descriptors(session.pid)))
        return samples


def measure(context):
    rows = []
    for kind, name in KINDS:
        samples = run(context.server, kind)
        rows.append([name] + [f"{kb} kB, {fds}" for kb, fds in samples])
        context.log(f"endurance: {rows[-1]}")
        (kb, fds), (last_kb, last_fds) = samples[1], samples[-1]
        context.summarize(f"from 10,000 to 100,000 calls in one backend, {name}",
                          f"{last_kb - kb:+} kB, {last_fds - fds:+} descriptors", "flat")
    return ("## Many calls in one backend\n\nAnonymous memory and open descriptors after so many"
            " calls:\n\n" + table([""] + [f"{mark:,}" for mark in MARKS], rows) + "\n")
