"""nghttpx as an HTTP/2 front end: a real, fast server instead of our own.

The h2 listener can misbehave but is slow; nghttpx behaves and is fast.  It
speaks HTTP/1.1 to a listener of ours, which records what arrives.
"""

import asyncio
import os
import shutil
import socket

from lifetime import die_with_parent
from listeners import HOST, bound_socket

READY_WITHIN = 10   # seconds


def program():
    """Path of nghttpx, None without one; it lives where root's PATH leads."""
    return shutil.which("nghttpx", path=os.pathsep.join(
        (os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin")))


def _command(port, backend_port, folder):
    return (
        program(),
        # One process: when we go, nothing is left behind.
        "--single-process",
        "--conf=/dev/null",
        "--frontend=%s,%d" % (HOST, port),
        "--backend=%s,%d;;proto=http/1.1" % (HOST, backend_port),
        # The default of 8 would hide how many requests a client has in flight.
        "--backend-connections-per-host=10000",
        "--frontend-http2-max-concurrent-streams=1000",
        "--log-level=ERROR",
        os.path.join(folder, "server.key"),
        os.path.join(folder, "good.pem"),
    )


def _accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Nghttpx:
    def __init__(self):
        # Bound but not listening: nobody else gets the port meanwhile.
        self.reserved = bound_socket()
        self.port = self.reserved.getsockname()[1]
        self.process = None

    async def start(self, backend_port, folder):
        with open(os.path.join(folder, "nghttpx.log"), "w") as log:
            self.process = await asyncio.create_subprocess_exec(
                *_command(self.port, backend_port, folder),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=die_with_parent)
        for _ in range(READY_WITHIN * 100):
            if _accepts(self.port):
                return
            if self.process.returncode is not None:
                break
            await asyncio.sleep(0.01)
        raise RuntimeError("nghttpx did not start")

    def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
