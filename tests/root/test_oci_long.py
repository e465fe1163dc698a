"""The OCI hook under crun, dockerd and containerd, each in mounts of its own with cgroups of version 2 alone."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from ..harness.containers import NOTHING, RAN, TCP_80, TRY, UID, Node, Runtime, binds, oci_layout
from ..harness.cri import NODE, Cri, Value
from ..harness.host import Result, wait_for
from ..harness.install import PYTHON
from ..harness.needs import need

ALLOW = "org.privbind.allow"
NAMESPACE = "io.kubernetes.cri.sandbox-namespace"
INGRESS = '[[grant]]\ncontainer = { "io.kubernetes.cri.sandbox-namespace" = "ingress" }\nallow = "tcp:80"\n'


@pytest.fixture
def node(installed: Path, folder: Path, programs: Path) -> Iterator[Node]:
    """A node with cgroups of version 2 alone."""
    made = Node(installed, folder, programs, pure=True)
    try:
        yield made
    finally:
        made.close()


def test_crun(node: Node) -> None:
    """By the files, by the hook's arguments, and through exec; nothing is left."""
    crun = Runtime(node, "crun")
    annotations = {NAMESPACE: "ingress"}
    hook = ("--runtime=containerd",)
    assert crun.run("control", annotations=annotations, hook=hook) == NOTHING
    node.grants(INGRESS)
    assert crun.run("granted", annotations=annotations, hook=hook) == TCP_80
    assert crun.run("asks", annotations={ALLOW: "tcp:80"}, hook=hook) == NOTHING
    assert crun.run("argument", hook=("--allow=tcp:80",)) == TCP_80
    bundle = crun.bundle("long", hook=("--allow=tcp:80",), args="sleep 600")
    null = subprocess.DEVNULL
    crun.command("run", "--detach", "--bundle", bundle, "long", stdin=null, stdout=null, stderr=null).ok()
    assert binds(crun.command("exec", "long", *TRY.split())) == TCP_80
    assert len(node.placed(node.tree.path)) == 1
    crun.command("delete", "--force", "long").ok()
    assert node.placed(node.tree.path) == []


class Docker:
    """A dockerd of the test's own."""

    def __init__(self, node: Node) -> None:
        need("dockerd", "docker", "runc")
        self.node = node
        self.place = node.folder / "docker"
        self.place.mkdir()
        node.run(["rm", "-f", "/etc/docker/daemon.json"]).ok()
        node.ctl("oci-install", "docker", "--allow=tcp:80", "--write").ok()
        with (self.place / "log").open("w") as log:
            self.daemon = self._start(log)
        wait_for(self._up, "dockerd's start")
        RAN["dockerd"] = self.docker("version", "--format={{.Server.Version}}").ok().out.strip()
        with tarfile.open(self.place / "root.tar", "w") as tar:
            tar.add(node.root, arcname=".")
        self.docker("import", self.place / "root.tar", "root").ok()

    def _start(self, log: TextIO) -> subprocess.Popen[Any]:
        return self.node.popen(
            [
                "dockerd",
                f"--host=unix://{self.place}/sock",
                f"--data-root={self.place}/data",
                f"--exec-root={self.place}/exec",
                f"--pidfile={self.place}/pid",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--storage-driver=vfs",
                "--exec-opt=native.cgroupdriver=cgroupfs",
                f"--cgroup-parent={self.node.tree.path}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def _up(self) -> bool:
        assert self.daemon.poll() is None, (self.place / "log").read_text()
        return self.docker("version").status == 0

    def docker(self, *words: object) -> Result:
        """Run the client."""
        return self.node.run(["docker", f"--host=unix://{self.place}/sock", *words])

    def run(self, *options: str, args: str = TRY) -> Result:
        """Run a container in the host's network as uid 1000."""
        return self.docker(
            "run",
            "--network=host",
            f"--user={UID}",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            *options,
            "root",
            *args.split(),
        )


def test_docker(node: Node) -> None:
    """The runtime that oci-install adds has the grant, the usual one has not; restart, exec and stop."""
    docker = Docker(node)
    assert binds(docker.run("--rm")) == NOTHING
    assert binds(docker.run("--rm", "--runtime=privbind")) == TCP_80
    assert binds(docker.run("--rm", f"--label={ALLOW}=tcp:80")) == NOTHING
    docker.run("--runtime=privbind", "--detach", "--name=long", args="/bin/sleep 600").ok()
    for _ in range(2):
        assert binds(docker.docker("exec", "long", *TRY.split())) == TCP_80
        assert len(node.placed(node.tree.path)) == 1
        docker.docker("restart", "--time=0", "long").ok()
    docker.docker("stop", "--time=0", "long").ok()
    assert node.placed(node.tree.path) == []
    docker.docker("rm", "long").ok()


NO_RESOURCES = f"""#!{PYTHON} -I
import json, os, sys
if "create" in sys.argv:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    with open(path) as file:
        spec = json.load(file)
    spec["linux"].pop("resources", None)
    spec["process"].pop("oomScoreAdj", None)
    with open(path, "w") as file:
        json.dump(spec, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"""
"""runc where the controllers of cgroups belong to version 1, so that no limit can be set."""


class Containerd:
    """A containerd of the test's own, with the handler that oci-install prints."""

    def __init__(self, node: Node) -> None:
        need("containerd", "ctr", "runc")
        self.node = node
        self.place = node.folder / "containerd"
        self.place.mkdir()
        told = node.ctl("oci-install", "containerd", "--write").ok().out
        handler = told.partition("by hand:\n")[2]
        assert "base_runtime_spec" in handler
        self.socket = self.place / "sock"
        config = f"""\
version = 2
root = "{self.place}/root"
state = "{self.place}/state"
[grpc]
  address = "{self.socket}"
[ttrpc]
  address = "{self.place}/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.place}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "test/root:latest"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{self.place}/runc"
{handler}
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.privbind.options]
    BinaryName = "{self.place}/runc"
"""
        (self.place / "runc").write_text(NO_RESOURCES)
        (self.place / "runc").chmod(0o755)
        (self.place / "config.toml").write_text(config)
        with (self.place / "log").open("w") as log:
            self.daemon = node.popen(
                ["containerd", "--config", self.place / "config.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._up, "containerd's start")
        RAN["containerd"] = self.ctr("version").ok().out.partition("Server:")[2].split()[1]
        image = oci_layout(node, {ALLOW: "tcp:80"})
        index = json.loads((image / "index.json").read_text())
        index["manifests"][0]["annotations"]["io.containerd.image.name"] = "docker.io/test/root:latest"
        (image / "index.json").write_text(json.dumps(index))
        with tarfile.open(self.place / "image.tar", "w") as tar:
            tar.add(image, arcname=".")
        self.ctr("images", "import", "--snapshotter=native", self.place / "image.tar").ok()

    def _up(self) -> bool:
        assert self.daemon.poll() is None, (self.place / "log").read_text()
        return self.ctr("version").status == 0

    def ctr(self, *words: object) -> Result:
        """Run ctr."""
        return self.node.run(["ctr", "--address", self.socket, "--namespace=k8s.io", *words])


@pytest.fixture
def containerd(node: Node) -> Containerd:
    return Containerd(node)


def pod_config(node: Node, name: str, namespace: str, annotations: dict[str, str]) -> dict[int, Value]:
    """PodSandboxConfig: in the node's network, its cgroup below the test's own."""
    network: dict[int, Value] = {1: NODE}
    security: dict[int, Value] = {1: network}
    linux: dict[int, Value] = {1: f"{node.tree.path}/{name}", 2: security}
    metadata: dict[int, Value] = {1: name, 2: f"uid-{name}", 3: namespace}
    return {1: metadata, 3: "", 7: dict(annotations), 8: linux}


def container_config(annotations: dict[str, str]) -> dict[int, Value]:
    """ContainerConfig: uid 1000, no capabilities, no_new_privs."""
    capabilities: dict[int, Value] = {2: ["ALL"]}
    network: dict[int, Value] = {1: NODE}
    user: dict[int, Value] = {1: UID}
    context: dict[int, Value] = {1: capabilities, 3: network, 5: user, 11: True}
    metadata: dict[int, Value] = {1: "site"}
    image: dict[int, Value] = {1: "docker.io/test/root:latest"}
    linux: dict[int, Value] = {2: context}
    return {
        1: metadata,
        2: image,
        3: ["/bin/sleep", "100000"],
        10: dict(annotations),
        15: linux,
    }


@pytest.mark.parametrize(
    ("namespace", "handler", "annotations", "expected"),
    [
        ("ingress", "privbind", {}, TCP_80),
        ("ingress", "privbind", {ALLOW: "tcp:80"}, TCP_80),
        ("ingress", "privbind", {ALLOW: "tcp:443"}, NOTHING),
        ("ingress", "", {}, NOTHING),
        ("default", "privbind", {}, NOTHING),
        ("default", "privbind", {ALLOW: "tcp:80"}, NOTHING),
        ("default", "privbind", {NAMESPACE: "ingress", "io.kubernetes.pod.namespace": "ingress"}, NOTHING),
    ],
    ids=["granted", "narrowed", "narrowed to nothing", "another handler", "another namespace", "asked for", "spoofed"],
)
def test_containerd_as_kubernetes_uses_it(  # noqa: PLR0917  # a case
    node: Node, containerd: Containerd, namespace: str, handler: str, annotations: dict[str, str], expected: list[str]
) -> None:
    """By the pod's namespace, which containerd sets over what the pod's author wrote."""
    node.grants(INGRESS)
    cri = Cri(containerd.socket)
    try:
        config = pod_config(node, "pod", namespace, annotations)
        pod = cri.run_pod(config, handler)
        for _ in range(2):  # once more, as after a crash
            container = cri.run_container(pod, config, container_config(annotations))
            assert [line.split()[0] for line in cri.execute(container, TRY.split()).splitlines()] == expected
            cri.call("StopContainer", {1: container, 2: 0})
            cri.call("RemoveContainer", {1: container})
        cri.call("StopPodSandbox", {1: pod})
        cri.call("RemovePodSandbox", {1: pod})
        assert node.placed(node.tree.path) == []
    finally:
        cri.close()


def test_containerd_by_ctr(node: Node, containerd: Containerd) -> None:
    """With a specification that has the hook."""
    bundles = Runtime(node, "runc")
    for name, hook, expected in (("plain", None, NOTHING), ("granted", ("--allow=tcp:80",), TCP_80)):
        bundle = bundles.bundle(name, hook=hook)
        assert binds(containerd.ctr("run", "--rm", "--config", bundle / "config.json", name)) == expected
