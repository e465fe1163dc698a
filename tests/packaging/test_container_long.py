"""The container image, and what it is for: an entry point, and files for an image that has a Python."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import dist
from deb.tree import tree
from privbind import __version__

from ..harness.containers import Node, podman
from ..harness.host import MANY, Result
from ..harness.install import ROOT, run, world_readable_folder

CAPABILITIES = ("--cap-drop=all", "--cap-add=setuid", "--cap-add=setgid", "--cap-add=net_bind_service")
IMAGE = f"localhost/privbind:{__version__}"
BUILD_S = 900  # as long as it takes on a busy machine
OTHER = f"""
FROM localhost/base
# Where python's own images have it, and not where Debian does.
RUN ln -s "$(realpath /usr/bin/python3)" /usr/local/bin/python3 && rm /usr/bin/python3
COPY --from={IMAGE} /opt/privbind /usr/local
ENTRYPOINT ["/usr/local/bin/privbind"]
"""


@pytest.fixture(scope="module")
def node(installed: Path, programs: Path) -> Iterator[Node]:
    """A machine with podman, which has built the image from a small Debian."""
    with world_readable_folder(writable=False) as folder, contextlib.closing(Node(installed, folder, programs)) as node:
        sources = folder / "sources"
        dist.make(sources / "dist/release")
        shutil.copytree(ROOT / "packaging/container", sources / "packaging/container")
        run("tar", "-C", tree("bookworm", ("python3",)), "-cf", folder / "base.tar", ".")
        podman(node, "import", "--quiet", folder / "base.tar", "localhost/base", timeout=BUILD_S).ok()
        build = ("build", "--isolation=chroot", "--quiet", "--network=host", "--layers=false")
        file = ("-f", sources / "packaging/container/Containerfile")
        podman(node, *build, "--build-arg=BASE=localhost/base", *file, "-t", IMAGE, sources, timeout=BUILD_S).ok()
        (folder / "Other").write_text(OTHER)
        podman(node, *build, "-f", folder / "Other", "-t", "localhost/other", folder, timeout=BUILD_S).ok()
        yield node


def run_in(node: Node, *words: str) -> Result:
    """Run a container in the node's network."""
    return podman(
        node,
        *("--runtime=runc", "run", "--rm", "--network=host", "--pids-limit=0", "--log-driver=none"),
        *("--ulimit=nofile=1024:1024", "--ulimit=nproc=2000:2000", f"--cgroup-parent={node.tree.path}"),
        *words,
        timeout=BUILD_S,
    )


@pytest.mark.parametrize("image", [IMAGE, "localhost/other"])
def test_a_command_binds(node: Node, image: str) -> None:
    """With the three capabilities that preload needs; the other port, and a command without privbind, are refused."""
    python = "/usr/bin/python3" if image == IMAGE else "/usr/local/bin/python3"
    command = (python, "-I", "-c", MANY, "80", "81")
    launch = ("-u", "nobody", "--allow", "tcp:80", "--", *command)
    assert run_in(node, *CAPABILITIES, image, *launch).ok().out == "ok EACCES\n"
    plain = run_in(node, "--user=65534", "--cap-drop=all", f"--entrypoint={python}", image, *command[1:])
    assert plain.ok().out == "EACCES EACCES\n"


def test_what_is_in_the_image(node: Node) -> None:
    """Little more than a Python, a third of the system that it is from, and the doctor knows where it is from."""
    image, base = (
        int(podman(node, "image", "inspect", "--format={{.Size}}", name).ok().out) for name in (IMAGE, "localhost/base")
    )
    print(f"the image: {image} bytes; Debian with python3: {base} bytes")
    assert image < base / 3
    doctor = run_in(node, "--entrypoint=/opt/privbind/bin/privbindctl", IMAGE, "doctor")
    assert "from       privbind's image, in /opt/privbind/lib/python3/dist-packages/privbind, run by" in doctor.out
    assert "beware" not in doctor.out
    serve = ("-u", "nobody", "--allow", "tcp:80", "--", "python3", "-c", "import http.server; print('could serve')")
    assert run_in(node, *CAPABILITIES, IMAGE, *serve).ok().out == "could serve\n"
