"""A server on port 80 that tells systemd when it listens."""

from __future__ import annotations

import os
import signal
import socket


def main() -> None:
    """Listen until it is told to end."""
    listener = socket.create_server(("", 80))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.connect(os.environ["NOTIFY_SOCKET"])
        teller.send(b"READY=1")
    signal.sigwait({signal.SIGTERM})
    listener.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
