"""What SECURITY.md says of UDP: a grant for one address takes the datagrams of a server on all of them."""

from __future__ import annotations

import subprocess

from ..harness.host import python, read_line
from ..harness.machine import ALICE, Granted, as_user

SERVER = """
import socket, sys
kind, address, reuse = sys.argv[1:]
s = socket.socket(type=getattr(socket, kind))
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
try:
    s.bind((address, 53))
    if kind == "SOCK_STREAM":
        s.listen()
except OSError as error:
    print(error.strerror, flush=True)
    raise SystemExit
print("up", flush=True)
if kind == "SOCK_DGRAM":
    while True:
        _, sender = s.recvfrom(99)
        s.sendto(address.encode(), sender)
input()
"""
"""A server on port 53, with or without SO_REUSEADDR, that answers a datagram with the address it has bound."""

ASK = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.settimeout(30)
    s.sendto(b"?", ("127.0.0.1", 53))
    print(s.recv(99).decode())
"""


def started(machine: Granted, argv: list[str]) -> str:
    """Start a server; what it says."""
    process = machine.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return read_line(process).strip()


def test_a_granted_address_takes_the_datagrams_of_roots_wildcard(granted: Granted) -> None:
    """Where both have SO_REUSEADDR; without the grant it is refused."""
    alice = as_user(ALICE, python(SERVER, "SOCK_DGRAM", "127.0.0.1", "1"))
    assert started(granted, python(SERVER, "SOCK_DGRAM", "0.0.0.0", "1")) == "up"
    assert started(granted, alice) == "Permission denied"
    assert granted.run(python(ASK)).ok().out == "0.0.0.0\n"
    granted.ctl("allow", "alice", "127.0.0.1:53").ok()
    assert started(granted, alice) == "up"
    assert granted.run(python(ASK)).ok().out == "127.0.0.1\n"


def test_not_from_a_server_without_the_option(granted: Granted) -> None:
    granted.ctl("allow", "alice", "127.0.0.1:53").ok()
    assert started(granted, python(SERVER, "SOCK_DGRAM", "0.0.0.0", "0")) == "up"
    taken = started(granted, as_user(ALICE, python(SERVER, "SOCK_DGRAM", "127.0.0.1", "1")))
    assert taken == "Address already in use"


def test_nor_over_tcp(granted: Granted) -> None:
    """While the other listens, SO_REUSEADDR or not; where nothing listens it is bound."""
    granted.ctl("allow", "alice", "127.0.0.1:53").ok()
    alice = as_user(ALICE, python(SERVER, "SOCK_STREAM", "127.0.0.1", "1"))
    assert granted.run(alice, input="\n").ok().lines == ["up"]
    assert started(granted, python(SERVER, "SOCK_STREAM", "0.0.0.0", "1")) == "up"
    assert started(granted, alice) == "Address already in use"
