"""Runs the parts and writes the report. Called by run, in the throw-away
PostgreSQL's environment."""

import os
import subprocess
import sys
import time

import bulk
import endurance
import first_call
import interrupts
import one_call
from pq import Session
from server import HERE, Nginx

PARTS = {"one_call": one_call.measure,
         "first_call": first_call.measure,
         "endurance": endurance.measure,
         "interrupts": interrupts.measure,
         "bulk": bulk.measure}


class Context:
    """What the parts need: where things are, and the server."""

    def __init__(self, work):
        self.work = work
        self.out = os.path.join(work, "out")
        os.makedirs(self.out, exist_ok=True)
        self.server = Nginx(os.path.join(work, "nginx"))
        self.trusted = "SENDKIT_BENCH_TRUSTED" in os.environ
        self._programs = {}

    def restart_postgres(self, environment):
        subprocess.run(["pg_ctl", "-D", os.path.join(self.work, "data"),
                        "-l", os.path.join(self.work, "server.log"), "-m", "fast", "-w", "restart"],
                       env=environment, stdout=subprocess.DEVNULL, check=True)

    def program(self, name):
        if name not in self._programs:
            path = os.path.join(self.work, name)
            subprocess.run(["gcc", "-O2", "-o", path, os.path.join(HERE, name + ".c"), "-lcurl"],
                           check=True)
            self._programs[name] = path
        return self._programs[name]

    def log(self, message):
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def main():
    context = Context(sys.argv[1])
    chosen = sys.argv[2:] or list(PARTS)
    with Session() as session:
        session.query("CREATE EXTENSION IF NOT EXISTS sendkit")
    try:
        text = "\n".join(PARTS[name](context) for name in chosen)
    finally:
        context.server.stop()
    with open(os.path.join(context.out, "results.md"), "w") as f:
        f.write(text)
    print(text)


main()
