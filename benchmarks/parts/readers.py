"""Many clients of one stream, in a process of their own.

    python -m benchmarks.parts.readers URL COUNT

They read until this process' input ends; then the least number of events that one of them has seen
is printed.
"""

from __future__ import annotations

import selectors
import socket
import sys
from urllib.parse import urlsplit

EVENT = b"event: "


def main() -> None:
    """Open the streams, say so, and read."""
    url, count = urlsplit(sys.argv[1]), int(sys.argv[2])
    address = (url.hostname, url.port)
    request = f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: text/event-stream\r\n\r\n"
    selector = selectors.DefaultSelector()
    seen = {}
    for _ in range(count):
        one = socket.create_connection(address)
        one.sendall(request.encode())
        selector.register(one, selectors.EVENT_READ)
        seen[one] = 0
    print("reading", flush=True)
    selector.register(sys.stdin, selectors.EVENT_READ)
    # An event may come in two pieces: the end of the one before is kept.
    left = dict.fromkeys(seen, b"")
    while True:
        for key, _ in selector.select():
            if not isinstance(key.fileobj, socket.socket):
                print(min(seen.values()))
                return
            came = key.fileobj.recv(65536)
            if not came:
                raise SystemExit("a stream broke")
            text = left[key.fileobj] + came
            seen[key.fileobj] += text.count(EVENT)
            left[key.fileobj] = text[-(len(EVENT) - 1) :]


if __name__ == "__main__":
    main()
