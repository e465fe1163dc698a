# SPDX-License-Identifier: MIT
"""Which annotations of a container can be trusted: those that a runtime sets itself, whatever anybody else wrote.

All others may come from the author of a pod or of an image (podman copies the annotations of an image's manifest).
Under podman and Docker none can be trusted, so these runtimes are not here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ALLOW = "org.privbind.allow"
"""What a container's author may ask for: less than is granted, never more."""

TRUSTED = {
    "containerd": (
        "io.kubernetes.cri.container-name",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri.sandbox-uid",
    ),
    "cri-o": (
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.uid",
    ),
}
"""By runtime, as the OCI hook's --runtime names it."""

KNOWN = tuple(sorted(name for names in TRUSTED.values() for name in names))
"""All of them: what a grant for containers may ask for."""


def trusted(annotations: Mapping[str, object], runtime: str | None) -> dict[str, str]:
    """The annotations of a container that count under this runtime."""
    return {name: found for name in TRUSTED.get(runtime or "", ()) if isinstance(found := annotations.get(name), str)}
