"""The Kubernetes manifests fit the published schemas, ask for no more than they need, and fit what the hook expects."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from privbind.grant.policy import Policy
from privbind.placed.containers import decide
from privbind.placed.oci_files import RUNTIME_NAME
from privbind.standing.annotations import ALLOW
from privbind.standing.entries import parse

from ..harness.install import ROOT

FOLDER = ROOT / "packaging/kubernetes"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))


def objects(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


def one(name: str, kind: str) -> dict[str, Any]:
    (found,) = (thing for thing in objects(FOLDER / name) if thing["kind"] == kind)
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_the_schemas(path: Path) -> None:
    """Those of the newest Kubernetes known here, to the letter."""
    for thing in objects(path):
        kubernetes_validate.validate(thing, "1.34", strict=True)


def test_the_schemas_would_tell() -> None:
    wrong = one("example.yaml", "Pod")
    wrong["spec"]["hostNetworks"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


@pytest.mark.parametrize("name", ["privbind.yaml", "undo.yaml"])
def test_the_daemon_set_has_no_more_rights_than_it_needs(name: str) -> None:
    """What stays does nothing and may do nothing; only what enters the node has capabilities, and mounts nothing."""
    pod = one(name, "DaemonSet")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    (stays,) = pod["containers"]
    assert stays["securityContext"]["runAsNonRoot"]
    assert "volumeMounts" not in stays
    for container in (*pod["initContainers"], stays):
        context = container["securityContext"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["allowPrivilegeEscalation"] is False
        assert "privileged" not in context
        if "add" in context["capabilities"]:
            assert "volumeMounts" not in container
    assert sum("add" in c["securityContext"]["capabilities"] for c in pod["initContainers"]) == 1
    assert "hostNetwork" not in pod


def test_the_example_gets_port_80_by_the_grants_of_the_daemon_set() -> None:
    entries = parse(one("privbind.yaml", "ConfigMap")["data"]["grants.toml"].encode(), "grants.toml")
    pod = one("example.yaml", "Pod")
    set_by_containerd = {"io.kubernetes.cri.sandbox-namespace": pod["metadata"]["namespace"]}
    asked = {ALLOW: pod["metadata"]["annotations"][ALLOW]}
    found = decide(set_by_containerd | asked, "containerd", entries, None)
    assert (found.policy, found.refused) == (Policy.parse(["tcp:80"]), ())
    assert one("runtimeclass.yaml", "RuntimeClass")["handler"] == pod["spec"]["runtimeClassName"] == RUNTIME_NAME
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["spec"]["securityContext"]["runAsUser"] == 101


def test_what_is_put_on_a_node_and_taken_off(tmp_path: Path) -> None:
    """Twice put, once removed; grants are not writable for others, and files of others stay."""
    image, node, grants = tmp_path / "image", tmp_path / "node", tmp_path / "grants"
    for part in ("bin", "lib"):
        (image / part).mkdir(parents=True)
        (image / part / "file").write_text("new")
    for folder in (grants, node / "opt/privbind", node / "etc/privbind/grants.d"):
        folder.mkdir(parents=True)
    other = node / "etc/privbind/grants.d/other.toml"
    other.write_text("other")
    environment = os.environ | {"NODE": str(node), "IMAGE": str(image), "GRANTS": str(grants)}

    def run(word: str) -> None:
        subprocess.run([FOLDER / "node.sh", word], env=environment, check=True)

    for text in ("first", "second"):
        (grants / "grants.toml").write_text(text)
        run("files")
        written = node / "etc/privbind/grants.d/kubernetes.toml"
        assert written.read_text() == text
        assert written.stat().st_mode & 0o777 == 0o644
        assert sorted(path.name for path in (node / "opt/privbind").iterdir()) == ["bin", "lib"]
        assert (node / "opt/privbind/bin/file").read_text() == "new"
    run("remove")
    assert list((node / "opt/privbind").iterdir()) == []
    assert list((node / "etc/privbind/grants.d").iterdir()) == [other]
