"""Why bpf(2) is not permitted: the first thing that is missing, by its name."""

from __future__ import annotations

import pytest

from privbind.linux import capabilities
from privbind.linux.capabilities import CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN
from privbind.mechanisms.bpf import features

ELSE = "bpf(2) is not permitted"


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ((), "CAP_BPF and CAP_NET_ADMIN are missing"),
        ((CAP_NET_ADMIN,), "CAP_BPF is missing"),
        ((CAP_BPF,), "CAP_NET_ADMIN is missing"),
        # Newer kernels take CAP_SYS_ADMIN for everything, and then nothing is refused for this.
        ((CAP_SYS_ADMIN,), "CAP_NET_ADMIN is missing"),
        ((CAP_SYS_ADMIN, CAP_NET_ADMIN), ELSE),
        ((CAP_BPF, CAP_NET_ADMIN), ELSE),
    ],
)
def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, held: tuple[int, ...], reason: str) -> None:
    mask = capabilities.mask(*held)
    monkeypatch.setattr(capabilities, "get", lambda: (mask, mask, 0))
    monkeypatch.setattr(features, "_USER_NAMESPACE", "/nonexistent")
    assert features.forbidden().reason == reason
