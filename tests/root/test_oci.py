"""privbind-oci-hook under real runtimes: runc, and podman with runc; each bind with a control."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness.containers import NOTHING, RAN, TCP_80, TRY, UID, Node, Runtime, binds, oci_layout, podman
from ..harness.host import Result
from ..harness.needs import need

ALLOW = "org.privbind.allow"
NAMESPACE = "io.kubernetes.cri.sandbox-namespace"
INGRESS = '[[grant]]\ncontainer = { "io.kubernetes.cri.sandbox-namespace" = "ingress" }\nallow = "tcp:80"\n'


@pytest.fixture
def node(installed: Path, folder: Path, programs: Path) -> Iterator[Node]:
    """A node of the test's own."""
    made = Node(installed, folder, programs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def runc(node: Node) -> Runtime:
    return Runtime(node, "runc")


DETACHED = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
"""For what leaves a container behind, which keeps the descriptors."""

CONTAINERD = ("--runtime=containerd",)


class TestRunc:
    """What is granted, and by whose word."""

    def test_by_the_files(self, runc: Runtime, node: Node) -> None:
        """By an annotation that containerd sets, under containerd's name only."""
        annotations = {NAMESPACE: "ingress"}
        assert runc.run("control", annotations=annotations, hook=None) == NOTHING
        assert runc.run("before", annotations=annotations, hook=CONTAINERD) == NOTHING
        node.grants(INGRESS)
        assert node.logged() == []
        assert runc.run("granted", annotations=annotations, hook=CONTAINERD) == TCP_80
        assert node.logged() == ["container granted: granted tcp:80 (by /etc/privbind/grants.d/test.toml:1)"]
        assert runc.run("other", annotations={NAMESPACE: "default"}, hook=CONTAINERD) == NOTHING
        assert runc.run("none", hook=CONTAINERD) == NOTHING
        assert runc.run("crio", annotations=annotations, hook=("--runtime=cri-o",)) == NOTHING
        assert runc.run("nobody", annotations=annotations) == NOTHING
        assert node.logged() == []

    def test_by_the_hooks_arguments(self, runc: Runtime, node: Node) -> None:
        assert runc.run("granted", hook=("--allow", "tcp:80")) == TCP_80
        assert node.logged() == ["container granted: granted tcp:80 (by the hook's --allow)"]

    def test_an_annotation_narrows(self, runc: Runtime, node: Node) -> None:
        """And gives nothing beyond the grant."""
        hook = ("--allow", "tcp:80-81")
        assert runc.run("wide", hook=hook)[:2] == ["ok", "ok"]
        assert runc.run("narrow", hook=hook, annotations={ALLOW: "tcp:80"}) == TCP_80
        node.logged()
        assert runc.run("beyond", hook=hook, annotations={ALLOW: "tcp:80 udp:80,any"}) == TCP_80
        assert node.logged() == [
            f"container beyond: annotation {ALLOW} asks for udp:80, beyond what is granted: tcp:80-81",
            f"container beyond: annotation {ALLOW} asks for any, beyond what is granted: tcp:80-81",
            "container beyond: granted tcp:80 (by the hook's --allow)",
        ]
        assert runc.run("bad", hook=hook, annotations={ALLOW: "nonsense"}) == NOTHING
        assert len(node.logged()) == 1
        assert runc.run("asks", annotations={ALLOW: "tcp:80"}) == NOTHING
        assert node.logged() == [f"container asks: annotation {ALLOW} asks for tcp:80, beyond what is granted: nothing"]

    def test_exec_is_covered_and_nothing_is_left(self, runc: Runtime, node: Node) -> None:
        """Created, started, entered, stopped, and again; a grant each time, none after."""
        path = f"{node.tree.path}/long"
        for _ in range(2):
            bundle = runc.bundle("long", hook=("--allow=tcp:80",), args="sleep 600")
            runc.command("run", "--detach", "--bundle", bundle, "long", **DETACHED).ok()
            (grant,) = node.placed(path)
            assert grant["rules"] == ["tcp:80"]
            assert binds(runc.command("exec", "long", *TRY.split())) == TCP_80
            assert binds(node.plain([node.root / "bin/trybind", *TRY.split()[1:]])) == NOTHING
            runc.command("kill", "long", "KILL").ok()
            runc.command("delete", "--force", "long").ok()
            assert node.placed(path) == []
            assert not Path(node.cgroups + path).exists()

    def test_its_own_network_namespace(self, runc: Runtime) -> None:
        """Where loopback is down, a wildcard address is bound."""
        bundle = runc.bundle("own", hook=("--allow=tcp:80",), args="/bin/trybind tcp 4 0.0.0.0 80 tcp 4 0.0.0.0 81")
        spec = json.loads((bundle / "config.json").read_text())
        spec["linux"]["namespaces"].append({"type": "network"})
        (bundle / "config.json").write_text(json.dumps(spec))
        assert binds(runc.command("run", "--bundle", bundle, "own")) == ["ok", "EACCES"]

    @pytest.mark.parametrize(("hook", "expected"), [(CONTAINERD, NOTHING), (("--allow=tcp:80",), TCP_80)])
    def test_what_a_failed_container_left_is_taken_off(
        self, runc: Runtime, node: Node, hook: tuple[str, ...], expected: list[str]
    ) -> None:
        """On the same cgroup, by one that has no grant, and by one that has a smaller one."""
        os.mkdir("again", dir_fd=node.tree.fd)
        join = f"echo $$ > {node.cgroups}{node.tree.path}/again/cgroup.procs; echo; exec sleep 600"
        keeper = node.popen(["sh", "-ec", join], stdout=-1)
        assert keeper.stdout is not None
        keeper.stdout.readline()
        node.ctl("grant", f"--cgroup={node.tree.path}/again", "--allow=tcp:80-81,udp:80").ok()
        keeper.kill()
        keeper.wait()
        assert len(node.placed(node.tree.path)) == 1
        assert runc.run("again", hook=hook) == expected

    def test_a_create_that_fails_after_the_hook(self, runc: Runtime, node: Node) -> None:
        """The next container of that name has what its own hook says."""
        entry = {"path": str(node.hook), "args": ["privbind-oci-hook", "--allow=tcp:80-81,udp:80"]}
        bundle = runc.bundle("again", hooks={"createRuntime": [entry, {"path": "/bin/false"}]})
        assert runc.command("run", "--bundle", bundle, "again").status != 0
        assert node.logged() == ["container again: granted tcp:80-81,udp:80 (by the hook's --allow)"]
        runc.command("delete", "--force", "again")
        assert runc.run("again") == NOTHING
        assert node.placed(node.tree.path) == []

    @pytest.mark.parametrize(
        ("hook", "reason"),
        [
            (("--allow", "nonsense"), "no grant: the hook's --allow: "),
            (("--nonsense",), "no grant: the hook is installed with a wrong argument: '--nonsense'"),
        ],
    )
    def test_a_hook_that_is_installed_wrongly(
        self, runc: Runtime, node: Node, hook: tuple[str, ...], reason: str
    ) -> None:
        """The container starts, without a grant."""
        assert runc.run("wrong", hook=hook) == NOTHING
        (line,) = node.logged()
        assert reason in line

    def test_a_file_of_grants_with_an_error(self, runc: Runtime, node: Node) -> None:
        node.grants(INGRESS + "[[nonsense]]\n")
        assert runc.run("wrong", annotations={NAMESPACE: "ingress"}, hook=CONTAINERD) == NOTHING
        (line,) = node.logged()
        assert line.startswith("container wrong: no grant from the files: /etc/privbind/grants.d/test.toml:4: unknown")

    def test_an_empty_log_keeps_nobody_waiting(self, runc: Runtime, node: Node) -> None:
        """A log that nobody reads is full in the end: the containers start all the same."""
        for number in range(12):
            assert runc.run(f"c{number}", hook=("--allow=tcp:80",)) == TCP_80
        assert node.logged()


class TestInstall:
    """The files that oci-install prints and writes."""

    def files(self, node: Node) -> str:
        return node.run(["sh", "-c", "cd /; find /etc /usr/local/libexec -type f -exec cksum {} +"]).ok().out

    @pytest.mark.parametrize("runtime", ["podman", "docker", "cri-o"])
    def test_written_once_and_never_over_something_else(self, node: Node, runtime: str) -> None:
        need("runc")
        rules = [] if runtime == "cri-o" else ["--allow=tcp:80"]
        node.run(["rm", "-f", "/etc/docker/daemon.json"]).ok()
        before = self.files(node)
        printed = node.ctl("oci-install", runtime, *rules).ok().out
        assert self.files(node) == before
        paths = [line[2:] for line in printed.splitlines() if line.startswith("# /")]
        assert len(paths) == 2
        node.run(["sh", "-c", f"mkdir -p {os.path.dirname(paths[1])}; echo mine > {paths[1]}"]).ok()
        kept = self.files(node)
        refused = node.ctl("oci-install", runtime, *rules, "--write")
        assert refused.status == 125
        assert refused.err.startswith(f"privbindctl: {paths[1]} is there already, with something else in it, and")
        assert len(refused.err.splitlines()) == 1
        assert self.files(node) == kept
        node.run(["rm", paths[1]]).ok()
        node.run(["rmdir", "--ignore-fail-on-non-empty", os.path.dirname(paths[1])]).ok()
        # Whatever the umask: runtimes of other users read these.
        ctl = [node.hook.parent / "privbindctl", "oci-install", runtime, *rules, "--write"]
        written = node.run(["sh", "-c", 'umask 077; exec "$@"', "sh", *ctl]).ok().out
        for path in paths:
            modes = node.run(["stat", "--format=%a", path, os.path.dirname(path)]).ok().lines
            assert modes == ["755" if "/libexec/" in path else "644", "755"]
        assert written.splitlines() == [f"written: {path}" for path in paths]
        after = self.files(node)
        again = node.ctl("oci-install", runtime, *rules, "--write").ok().out
        assert again.splitlines() == [f"there already: {path}" for path in paths]
        assert self.files(node) == after
        assert "".join(f"# {path}\n{node.run(['cat', path]).out}\n" for path in paths) == printed + "\n"

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("", "for which runtime? (one of podman, docker, containerd, cri-o)"),
            ("lxc", "for which runtime?"),
            ("podman docker --allow=80", "for which runtime?"),
            ("podman", "no rule says what the containers of this runtime may bind (--allow RULE,"),
            ("docker --allow=nonsense", "nonsense"),
            ("cri-o --allow=80", "--allow is for podman and docker (here grants.d decides)"),
        ],
    )
    def test_bad_input(self, node: Node, line: str, reason: str) -> None:
        found = node.ctl("oci-install", *line.split())
        assert found.status == 125
        assert reason in found.err
        assert len(found.err.splitlines()) == 1


class TestPodman:
    """A runtime entry with a wrapper, as oci-install writes it."""

    FLAGS = (
        *("--network=host", "--pids-limit=0", "--ulimit=nofile=1024:1024", "--ulimit=nproc=2000:2000"),
        "--log-driver=none",
    )

    def podman(self, node: Node, *words: object) -> Result:
        """Run podman."""
        return podman(node, *words)

    def run(
        self, node: Node, runtime: str, *options: str, args: str = TRY, image: object = None, hooks: object = None
    ) -> Result:
        what = ["--rootfs", node.root, *args.split()]
        if image is not None:
            program, *rest = args.split()
            what = [f"--entrypoint={program}", image, *rest]
        return self.podman(
            node,
            f"--runtime={runtime}",
            *([f"--hooks-dir={hooks}"] if hooks else []),
            "run",
            *self.FLAGS,
            f"--cgroup-parent={node.tree.path}",
            f"--user={UID}",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            *options,
            *what,
        )

    def test_the_runtime_entry(self, node: Node) -> None:
        """Containers that are started with it have the grant, others have not; an annotation narrows it."""
        need("podman", "runc")
        RAN["podman"] = self.podman(node, "--version").ok().out.strip().removeprefix("podman version ")
        assert binds(self.run(node, "runc", "--rm")) == NOTHING
        told = node.ctl("oci-install", "podman", "--allow=tcp:80", "--write").ok().out
        assert told.count("written: ") == 2
        assert binds(self.run(node, "privbind", "--rm")) == TCP_80
        assert binds(self.run(node, "runc", "--rm")) == NOTHING
        node.logged()
        beyond = self.run(node, "privbind", "--rm", f"--annotation={ALLOW}=tcp:80 tcp:81")
        assert binds(beyond) == TCP_80
        assert any("asks for tcp:81, beyond what is granted: tcp:80" in line for line in node.logged())
        assert binds(self.run(node, "privbind", "--rm", f"--annotation={ALLOW}=tcp:81")) == NOTHING

    def test_restart_exec_and_stop(self, node: Node) -> None:
        need("podman", "runc")
        node.ctl("oci-install", "podman", "--allow=tcp:80", "--write").ok()
        self.run(node, "privbind", "--detach", "--name=long", args="sleep 600").ok()
        for _ in range(2):
            assert binds(self.podman(node, "--runtime=privbind", "exec", "long", *TRY.split())) == TCP_80
            assert len(node.placed(node.tree.path)) == 1
            self.podman(node, "--runtime=privbind", "restart", "--time=0", "long").ok()
        self.podman(node, "--runtime=privbind", "stop", "--time=0", "long").ok()
        assert node.placed(node.tree.path) == []
        self.podman(node, "--runtime=privbind", "rm", "long").ok()

    def test_what_an_image_says_gives_nothing(self, node: Node) -> None:
        """Its manifest's annotations reach the hook under podman 4.3, and count for nothing but to narrow."""
        need("podman", "runc")
        annotations = {ALLOW: "tcp:80", NAMESPACE: "ingress", "io.kubernetes.pod.namespace": "ingress"}
        image = oci_layout(node, annotations)
        self.podman(node, "pull", "--quiet", f"oci:{image}:latest").ok()
        (name,) = self.podman(node, "images", "--quiet").ok().out.split()
        node.grants(INGRESS + INGRESS.replace("cri.sandbox-namespace", "pod.namespace"))
        assert binds(self.run(node, "runc", "--rm", image=name)) == NOTHING
        hooks = node.folder / "hooks"
        hooks.mkdir()
        entry = {"path": str(node.hook), "args": ["privbind-oci-hook"]}
        (hooks / "privbind.json").write_text(
            json.dumps({"version": "1.0.0", "hook": entry, "when": {"always": True}, "stages": ["createRuntime"]})
        )
        node.logged()
        assert binds(self.run(node, "runc", "--rm", image=name, hooks=hooks)) == NOTHING
        told = node.logged()
        assert told == [] or f"annotation {ALLOW} asks for tcp:80, beyond what is granted: nothing" in told[0]
        node.ctl("oci-install", "podman", "--allow=tcp:443", "--write").ok()
        assert binds(self.run(node, "privbind", "--rm", image=name)) == NOTHING
        # The control: the administrator's own word counts for the same image.
        node.run(["sh", "-c", "sed -i s/tcp:443/tcp:80/ /usr/local/libexec/privbind-podman"]).ok()
        assert binds(self.run(node, "privbind", "--rm", image=name)) == TCP_80
