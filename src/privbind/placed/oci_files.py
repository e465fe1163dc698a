# SPDX-License-Identifier: MIT
"""The files that have a container runtime run the hook. Pure: text out, nothing read or written."""

from __future__ import annotations

from ..values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNTIME_NAME = "privbind"
"""What the runtime, or Kubernetes' RuntimeClass, is called."""

SPEC = "/etc/containerd/privbind-spec.json"
_WRAPPER = "/usr/local/libexec/privbind-{}"


@value
class File:
    """A file to be written: its path, what is in it, and whether it is a program.

    ``part``: only what is to be added to a file that a package has put there, by hand.
    """

    path: str
    text: str
    program: bool = False
    part: bool = False


def podman(hook: str, runtime: str, rules: str) -> tuple[File, ...]:
    """A runtime for `podman run --runtime privbind`, which adds the hook with these rules."""
    wrapper = _WRAPPER.format("podman")
    config = f"# Containers that may bind {rules}: podman run --runtime {RUNTIME_NAME} …\n[engine.runtimes]\n"
    config += f'{RUNTIME_NAME} = ["{wrapper}"]\n'
    return _wrapper(wrapper, hook, runtime, rules), File("/etc/containers/containers.conf.d/privbind.conf", config)


def docker(hook: str, runtime: str, rules: str) -> tuple[File, ...]:
    """A runtime for `docker run --runtime privbind`, which adds the hook with these rules."""
    from json import dumps

    wrapper = _WRAPPER.format("docker")
    config = {"runtimes": {RUNTIME_NAME: {"path": wrapper}}}
    return _wrapper(wrapper, hook, runtime, rules), File("/etc/docker/daemon.json", dumps(config, indent=2) + "\n")


def containerd(hook: str, spec: dict[str, Any]) -> tuple[File, ...]:
    """A handler for containerd's CRI, whose containers run the hook; ``spec`` is what `ctr oci spec` prints."""
    from json import dumps

    with_hook = {**spec, "hooks": {"createRuntime": [hook_entry(hook, "containerd")]}}
    handler = f"""\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{RUNTIME_NAME}]
  runtime_type = "io.containerd.runc.v2"
  base_runtime_spec = "{SPEC}"
  pod_annotations = ["org.privbind.*"]
"""
    return File(SPEC, dumps(with_hook, indent=2) + "\n"), File("/etc/containerd/config.toml", handler, part=True)


def cri_o(hook: str) -> tuple[File, ...]:
    """The hook for all of CRI-O's containers, in a folder that Podman does not read.

    Podman would pass on what an image says under the names of CRI-O's annotations.
    """
    from json import dumps

    entry = {
        "version": "1.0.0",
        "hook": hook_entry(hook, "cri-o"),
        "when": {"always": True},
        "stages": ["createRuntime"],
    }
    config = """\
[crio.runtime]
hooks_dir = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d", "/etc/crio/hooks.d"]
"""
    return (
        File("/etc/crio/hooks.d/privbind.json", dumps(entry, indent=2) + "\n"),
        File("/etc/crio/crio.conf.d/50-privbind.conf", config),
    )


def hook_entry(hook: str, runtime: str) -> dict[str, Any]:
    """The hook as OCI's runtime specification has it."""
    return {"path": hook, "args": ["privbind-oci-hook", f"--runtime={runtime}"]}


def _wrapper(path: str, hook: str, runtime: str, rules: str) -> File:
    """A runtime that adds the hook to each new container and is the real runtime otherwise."""
    from shlex import quote

    text = f"""\
#!/bin/sh
# An OCI runtime whose containers may bind {rules}. It adds privbind's hook to the bundle of a new container; whatever
# goes wrong with that is in the system's log, and the container starts without the grant.
case " $* " in
*" create "* | *" run "*)
    {quote(hook)} --wrap {quote(hook)} --allow {quote(rules)} -- "$@" </dev/null >/dev/null 2>&1
    ;;
esac
exec {quote(runtime)} "$@"
"""
    return File(path, text, program=True)
