"""A stand-in for the SendKit API, for tests.

    python3 standin [options]                  serve until told to go
    python3 standin [options] --run COMMAND    serve while COMMAND runs
    python3 standin ctl PORT METHOD PATH [JSON]

Opens its listeners on loopback ports of the kernel's choice, prints one line of
JSON that tells them, and serves.  Each file here is one concern; this one only
puts them together.  README.md next to it lists the directives by which an id
asks for misbehaviour, and the calls of the control port.
"""

import sys

# Before the other imports: a client that is run a hundred times by a test
# script shall not load a server.
if __name__ == "__main__" and sys.argv[1:2] == ["ctl"]:
    import ctl
    sys.exit(ctl.main(sys.argv[2:]))

import argparse
import asyncio
import json
import logging
import os
import resource
import shutil
import tempfile

from api import Api, SecondHost
from control import Control
from flood import Flooder
from http1 import Http1Connection
from journal import Journal
from lifetime import Lifetime
from listeners import HOST, BlackHole, Listener, Mute, bound_socket
from proxy import Proxy, ProxyConnection


def parse_options():
    parser = argparse.ArgumentParser(
        prog="standin", description="A stand-in for the SendKit API.")
    parser.add_argument("--tls", action="store_true",
                        help="open the TLS listeners too")
    parser.add_argument("--nghttpx", action="store_true",
                        help="start nghttpx in front (implies --tls)")
    parser.add_argument("--no-record", action="store_true",
                        help="count requests, don't keep them")
    parser.add_argument("--h2-max-streams", type=int, default=128, metavar="N",
                        help="concurrent streams per HTTP/2 connection")
    parser.add_argument("--dir", metavar="DIR",
                        help="where to make the private temporary directory")
    parser.add_argument("--port-file", metavar="PATH",
                        help="write the line of JSON to this file as well")
    parser.add_argument("--until-eof", action="store_true",
                        help="go when standard input ends")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND",
                        help="run this command, go when it ends")
    return parser.parse_args()


class Standin:
    """All listeners, and the sites behind them."""

    def __init__(self, options, folder):
        self.folder = folder
        self.api = Api(Journal(not options.no_record))
        self.second = SecondHost(Journal())
        self.proxy = Proxy(Journal())
        self.listeners = []     # those that POST /stop takes away
        self.others = []
        self.ports = {}
        self.nghttpx = None

    def _listen(self, name, protocol, site, tls=None, api=True):
        def accept(name):
            site.journal.connection_accepted(name)
            return protocol(site, name)

        listener = Listener(name, accept, tls)
        (self.listeners if api else self.others).append(listener)
        self.ports[name] = listener.port
        return listener

    def add_plain(self):
        self._listen("http", Http1Connection, self.api)
        second = self._listen("second", Http1Connection, self.second)
        self.api.second_url = "http://%s:%d" % (HOST, second.port)
        self._listen("proxy", ProxyConnection, self.proxy, api=False)
        control = Control(self.api, self.second, self.proxy, self.listeners)
        self._listen("control", Http1Connection, control, api=False)
        self.closed = bound_socket()
        self.ports["closed"] = self.closed.getsockname()[1]
        self.ports["flood"] = Flooder().port
        self.blackhole = BlackHole()
        self.ports["blackhole"] = self.blackhole.port

    def add_tls(self, max_streams):
        import certs
        certs.make(self.folder)
        for name, kind in (("https", "good"), ("https_expired", "expired"),
                           ("https_wronghost", "wronghost"),
                           ("https_selfsigned", "selfsigned")):
            self._listen(name, Http1Connection, self.api,
                         certs.context(self.folder, kind))
        self._listen("https_tls12", Http1Connection, self.api,
                     certs.older_context(self.folder))
        outdated = certs.outdated_context(self.folder)
        if outdated is not None:
            self._listen("https_tls11", Http1Connection, self.api, outdated)
        mute = Listener("https_stuck", lambda name: Mute())
        self.others.append(mute)
        self.ports["https_stuck"] = mute.port
        self._add_http2(certs, max_streams)
        self.ports["https_flood"] = Flooder(certs.context(self.folder)).port

    def _add_http2(self, certs, max_streams):
        """The h2 listener; without the library there is just no such port."""
        try:
            import http2
        except ImportError:
            return
        self.ports["h2_flood"] = Flooder(
            certs.context(self.folder, alpn=("h2",))).port
        http2.Http2Connection.max_streams = max_streams
        self._listen("h2", http2.AlpnSwitch, self.api,
                     certs.context(self.folder, alpn=("h2", "http/1.1")))

    def open(self):
        for listener in self.listeners + self.others:
            listener.open()

    async def add_nghttpx(self):
        """nghttpx in front; not installed, there is just no such port."""
        import nghttpx
        if nghttpx.program() is None:
            return
        behind = self._listen("nghttpx", Http1Connection, self.api)
        behind.open()
        self.nghttpx = nghttpx.Nghttpx()
        self.ports["nghttpx"] = self.nghttpx.port
        await self.nghttpx.start(behind.port, self.folder)

    def close(self):
        if self.nghttpx is not None:
            self.nghttpx.stop()


def announce(standin, options):
    """What there is, as one line of JSON."""
    facts = dict(standin.ports, dir=standin.folder)
    if options.tls:
        facts["ca"] = os.path.join(standin.folder, "ca.pem")
    line = json.dumps(facts)
    if options.port_file:
        unfinished = options.port_file + ".new"
        with open(unfinished, "w") as file:
            file.write(line + "\n")
        os.replace(unfinished, options.port_file)
    if not options.run:
        print(line, flush=True)
    return facts


def command_environment(facts):
    """Tell a command where everything is, and PostgreSQL clients' sessions."""
    environment = dict(os.environ)
    for name, value in facts.items():
        environment["STANDIN_" + name.upper()] = str(value)
    # to be split by a shell: none of these has a blank, or make would not run us
    environment["STANDIN_CTL"] = " ".join([
        sys.executable, os.path.dirname(os.path.abspath(__file__)), "ctl",
        str(facts["control"])])
    environment["PGOPTIONS"] = (
        environment.get("PGOPTIONS", "") +
        " -c sendkit.base_url=http://%s:%d" % (HOST, facts["http"]) +
        " -c sendkit.auto_deliver=off").lstrip()
    return environment


async def serve(options, folder):
    lifetime = Lifetime()
    standin = Standin(options, folder)
    try:
        standin.add_plain()
        if options.tls:
            standin.add_tls(options.h2_max_streams)
        standin.open()
        if options.nghttpx:
            await standin.add_nghttpx()
        facts = announce(standin, options)
        if options.until_eof:
            lifetime.end_with_input()
        if options.run:
            return await lifetime.until_command_ends(
                options.run, command_environment(facts))
        await lifetime.over.wait()
        return 0
    finally:
        standin.close()


def allow_many_connections():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main():
    options = parse_options()
    options.tls = options.tls or options.nghttpx
    allow_many_connections()
    # Clients that vanish are the daily business here.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    folder = tempfile.mkdtemp(prefix="standin-", dir=options.dir)
    os.chmod(folder, 0o755)
    try:
        return asyncio.run(serve(options, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
