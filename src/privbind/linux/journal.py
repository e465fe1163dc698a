# SPDX-License-Identifier: MIT
"""The journal of systemd by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""

from __future__ import annotations

from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, socket

SOCKET = "/run/systemd/journal/socket"

_MOST_CHARACTERS = 4096  # of a value; no path is longer


def entry(fields: list[tuple[str, str]]) -> bytes:
    """One entry: names in capitals with their values; a name that comes several times has several values. Pure.

    Long values are cut, since others choose them: an entry that is too long is none.
    """
    parts = []
    for name, value in fields:
        cut = value if len(value) <= _MOST_CHARACTERS else value[: _MOST_CHARACTERS - 1] + "…"
        data = cut.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class Journal:
    """The way to the journal. An entry must fit a datagram, about 200 kB."""

    def __init__(self, path: str = SOCKET) -> None:
        """Raise OSError where there is none."""
        self._path = path
        self._socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes) -> None:
        """Write an `entry`; wait while the journal is busy. Raises OSError."""
        try:
            self._socket.sendmsg((data,), (), MSG_NOSIGNAL)
        except ConnectionRefusedError:
            # Another journald has taken its place since.
            self._socket.connect(self._path)
            self._socket.sendmsg((data,), (), MSG_NOSIGNAL)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
