"""When to go: with the parent, at a signal, at the end of the input.

A test that is killed can't stop its stand-in.  So the stand-in asks the kernel
to be told when its parent dies, and may watch its standard input too, which a
parent holds open as long as it lives.
"""

import asyncio
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

# A shell's exit status for a command that it could not run.
NOT_RUN = 127


def die_with_parent():
    """Ask for SIGTERM when the parent dies (Linux; elsewhere no effect)."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except AttributeError:
        pass


class Lifetime:
    """Set up first thing, so that no parent can die unnoticed."""

    def __init__(self):
        parent = os.getppid()
        die_with_parent()
        self.over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.over.set)
        if os.getppid() != parent:
            self.over.set()

    def end_with_input(self):
        asyncio.get_running_loop().add_reader(0, self._read_input)

    def _read_input(self):
        if not os.read(0, 65536):
            asyncio.get_running_loop().remove_reader(0)
            self.over.set()

    async def until_command_ends(self, command, environment):
        """Run a command to its end, or to ours, and return its exit status."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, preexec_fn=die_with_parent)
        except OSError as error:
            print("standin: could not run %s: %s" % (command[0], error),
                  file=sys.stderr)
            return NOT_RUN
        over = asyncio.ensure_future(self.over.wait())
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait((over, ended), return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not ended.done():
            process.terminate()
        # subprocess tells a signal as its negative number, a shell adds 128.
        status = await ended
        return 128 - status if status < 0 else status
