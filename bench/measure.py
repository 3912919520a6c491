"""Runs the parts and writes the report: called by run, as the user and in the
environment of the throw-away PostgreSQL.

usage: measure.py FOLDER [PART...]
"""

import os
import re
import subprocess
import sys
import time

import bulk
import endurance
import first_call
import interrupts
import one_call
import revocations
import workers
from pq import Session
from server import HERE, Nginx
from stats import table

PARTS = {"one_call": one_call.measure,
         "first_call": first_call.measure,
         "endurance": endurance.measure,
         "interrupts": interrupts.measure,
         "bulk": bulk.measure,
         "revocations": revocations.measure,
         "workers": workers.measure}


class Context:
    """What the parts need: where things are, the server, a place for results."""

    def __init__(self, work):
        self.work = work
        self.out = os.path.join(work, "out")
        os.makedirs(self.out, exist_ok=True)
        self.server = Nginx(os.path.join(work, "nginx"))
        # run has lent our CA to the system's trust store
        self.trusted = "SENDKIT_BENCH_TRUSTED" in os.environ
        self.summary = []
        self._programs = {}

    def restart_postgres(self, environment=None):
        subprocess.run(["pg_ctl", "-D", os.path.join(self.work, "data"),
                        "-l", os.path.join(self.work, "server.log"), "-m", "fast", "-w", "restart"],
                       env=environment, stdout=subprocess.DEVNULL, check=True)

    def program(self, name):
        """A bare program, compiled when it is first asked for."""
        if name not in self._programs:
            path = os.path.join(self.work, name)
            flags = [subprocess.run(["pkg-config", what, "libcurl"], capture_output=True,
                                    text=True).stdout.split() for what in ("--cflags", "--libs")]
            subprocess.run(["gcc", "-O2", *flags[0], "-o", path, os.path.join(HERE, name + ".c"),
                            *(flags[1] or ["-lcurl"])], check=True)
            self._programs[name] = path
        return self._programs[name]

    def log(self, message):
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    def summarize(self, what, figure, target):
        self.summary.append([what, figure, target])


def first_match(pattern, text):
    match = re.search(pattern, text)
    return match.group(1).strip() if match else "unknown"


def conditions(session):
    """One line about the machine and the software."""
    with open("/proc/cpuinfo") as f:
        processor = first_match(r"model name\s*: (.*)", f.read())
    curl = subprocess.run(["curl-config", "--version"], capture_output=True, text=True).stdout
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
    return (f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores of {processor},"
            f" PostgreSQL {session.value('SHOW server_version')},"
            f" libcurl {first_match(r'([0-9.]+)', curl)},"
            f" nginx {first_match(r'nginx/([0-9.]+)', nginx)},"
            f" load average at the start {os.getloadavg()[0]:.1f}.")


def write(context, where, text):
    with open(os.path.join(HERE, "README.md")) as f:
        readme = f.read()
    summary = f"{where}\n\n{table(['', 'measured', 'wanted'], context.summary)}\n"
    readme = re.sub(r"(?s)(<!-- figures -->\n).*(<!-- end of figures -->)",
                    lambda m: f"{m.group(1)}\n{summary}\n{m.group(2)}", readme)
    for name, content in (("README.md", readme), ("results.md", f"# Results\n\n{where}\n\n{text}")):
        with open(os.path.join(context.out, name), "w") as f:
            f.write(content)
    print(f"\n{text}\n## Summary\n\n{summary}")


def main():
    chosen = sys.argv[2:] or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        raise SystemExit(f"no such part: {' '.join(unknown)}; there are: {' '.join(PARTS)}")
    # nobody delivers but who is asked to
    os.environ["PGOPTIONS"] = "-c sendkit.auto_deliver=off"
    context = Context(sys.argv[1])
    try:
        with Session() as session:
            session.query("CREATE EXTENSION IF NOT EXISTS sendkit")
            where = conditions(session)
        text = "\n".join(PARTS[name](context) for name in chosen)
    finally:
        context.server.stop()
    write(context, where, text)


main()
