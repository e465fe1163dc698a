# SPDX-License-Identifier: MIT
"""What the path of a cgroup tells: the unit of systemd, the container, the pod. Pure.

These are names only: whoever makes a cgroup chooses its name.
"""

from __future__ import annotations

import re

_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|swap)")
_CONTAINER = re.compile(r"(?:^|[-/:])([0-9a-f]{64})(?:\.scope)?(?:/|$)")  # what runtimes call theirs, OCI's state.id
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")  # a UID, as the kubelet writes it


def unit_of(path: str) -> str | None:
    """The innermost unit of systemd whose cgroup this is, or is below."""
    return next((name for name in reversed(path.split("/")) if _UNIT.fullmatch(name)), None)


def container_of(path: str) -> str | None:
    """The innermost container's id of 64 digits, as Docker, Podman, containerd and CRI-O name their cgroups."""
    found = _CONTAINER.findall(path)
    return found[-1] if found else None


def pod_of(path: str) -> str | None:
    """The UID of the pod of Kubernetes."""
    found = _POD.findall(path)
    return found[-1].replace("_", "-") if found else None
