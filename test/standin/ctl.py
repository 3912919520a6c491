"""Client of the control port, for shell scripts and psql's \\!

    ctl PORT METHOD PATH [JSON]

Prints the answer, a list one element a line.  Written on a bare socket, because
importing an HTTP client takes longer than the whole call.
"""

import json
import socket
import sys

USAGE = "usage: ctl PORT METHOD PATH [JSON]"


def exchange(port, method, path, body):
    """Send one request; return the answer's status and body."""
    head = ("%s %s HTTP/1.1\r\nHost: standin\r\nConnection: close\r\n"
            "Content-Length: %d\r\n\r\n" % (method, path, len(body)))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(head.encode() + body)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def show(value):
    for line in value if isinstance(value, list) else [value]:
        print(json.dumps(line, ensure_ascii=False))


def main(arguments):
    if len(arguments) not in (3, 4):
        print(USAGE, file=sys.stderr)
        return 2
    port, method, path = arguments[:3]
    body = arguments[3].encode() if len(arguments) == 4 else b""
    status, answer = exchange(int(port), method, path, body)
    show(json.loads(answer))
    return 0 if status == 200 else 1
