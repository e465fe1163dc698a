"""A client of containerd's CRI, as the kubelet is one: the few messages that tests need, encoded by hand."""

from __future__ import annotations

from pathlib import Path

import grpc  # type: ignore[import-untyped]

NODE = 2
"""NamespaceMode: the node's own."""

Value = int | str | bytes | bool | list["Value"] | dict[str, str] | dict[int, "Value"]


def encode(fields: dict[int, Value]) -> bytes:
    """A message by its fields' numbers: text, numbers, messages (by number), maps of text, and lists of those."""
    out = b""
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                out += _varint(number << 3) + _varint(int(item))
            elif isinstance(item, dict) and all(isinstance(key, str) for key in item):
                for key, text in item.items():
                    entry = encode({1: str(key), 2: str(text)})
                    out += _varint(number << 3 | 2) + _varint(len(entry)) + entry
            else:
                data = encode(item) if isinstance(item, dict) else item.encode() if isinstance(item, str) else item  # type: ignore[arg-type]
                assert isinstance(data, bytes)
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def decode(data: bytes) -> dict[int, bytes]:
    """The last value of each field that has bytes."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        key, at = _read(data, at)
        size, at = _read(data, at)
        if key & 7 == 2:
            found[key >> 3] = data[at : at + size]
            at += size
    return found


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return number, at


class Cri:
    """The runtime service."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")

    def call(self, name: str, fields: dict[int, Value]) -> dict[int, bytes]:
        """Call a method of it."""
        method = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{name}")
        answer: bytes = method(encode(fields), timeout=60)
        return decode(answer)

    def run_pod(self, config: dict[int, Value], handler: str) -> str:
        """Make a pod's sandbox; its id."""
        return self.call("RunPodSandbox", {1: config, 2: handler})[1].decode()

    def run_container(self, pod: str, config: dict[int, Value], container: dict[int, Value]) -> str:
        """Make and start a container; its id."""
        made = self.call("CreateContainer", {1: pod, 2: container, 3: config})[1].decode()
        self.call("StartContainer", {1: made})
        return made

    def execute(self, container: str, argv: list[str]) -> str:
        """What a program prints in a container."""
        return self.call("ExecSync", {1: container, 2: list(argv), 3: 60}).get(1, b"").decode()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()
