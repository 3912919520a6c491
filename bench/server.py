"""The servers that are measured against: nginx with a throw-away CA, and one
that accepts and stays silent."""

import os
import re
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PORTS = ("HTTP", "TLS", "H2", "ONCE")
ECHO_MODULE = "/usr/lib/nginx/modules/ngx_http_echo_module.so"


def free_ports(count):
    sockets = []
    for _ in range(count):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        sockets.append(s)
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def make_certificates(folder):
    """A CA of its own, and a certificate for localhost."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    with open(os.path.join(folder, "server.ext"), "w") as f:
        f.write("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    for name in ("ca", "server"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
    openssl("req", "-x509", "-new", "-key", "ca.key", "-days", "2", "-out", "ca.pem",
            "-subj", "/CN=sendkit benchmark CA")
    openssl("req", "-new", "-key", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "server.ext", "-out", "server.pem")


class Nginx:
    def __init__(self, folder, delay=0.05):
        self.folder = folder
        self.delay = delay
        os.makedirs(folder, exist_ok=True)
        if not os.path.exists(os.path.join(folder, "server.pem")):
            make_certificates(folder)
        self.ca = os.path.join(folder, "ca.pem")
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        self._write_config()
        self.process = subprocess.Popen(
            ["nginx", "-p", folder, "-e", os.path.join(folder, "error.log"),
             "-c", os.path.join(folder, "nginx.conf")],
            cwd=folder, stdin=subprocess.DEVNULL)
        self._wait_ready()

    def _write_config(self):
        values = {name: str(port) for name, port in self.ports.items()}
        values["DIR"] = self.folder
        values["DELAY"] = str(self.delay)
        values["LOAD_ECHO"] = f"load_module {ECHO_MODULE};"
        with open(os.path.join(HERE, "nginx.conf")) as f:
            text = f.read()
        text = text[text.index("daemon off"):]
        with open(os.path.join(self.folder, "nginx.conf"), "w") as f:
            f.write(re.sub(r"@([A-Z0-9_]+)@", lambda m: values[m.group(1)], text))

    def _wait_ready(self):
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                for port in self.ports.values():
                    socket.create_connection(("127.0.0.1", port)).close()
                if self.pids():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        with open(os.path.join(self.folder, "error.log")) as f:
            raise SystemExit("nginx did not start: " + f.read())

    def pids(self):
        """The workers."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as f:
            return [int(pid) for pid in f.read().split()]

    def url(self, kind, path=""):
        scheme = "http" if kind == "HTTP" else "https"
        return f"{scheme}://localhost:{self.ports[kind]}{path}"

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Silent:
    """Accepts connections into its backlog, and says nothing."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]

    def url(self, scheme="http"):
        return f"{scheme}://localhost:{self.port}"
