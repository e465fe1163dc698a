"""What a container is granted: the administrator's word, narrowed by an annotation, and never widened."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.commands import oci_install
from privbind.errors import PrivbindError
from privbind.grant.policy import Policy
from privbind.placed import bundle
from privbind.placed.containers import MAX_ASKED, Decision, decide
from privbind.standing.annotations import ALLOW, KNOWN, TRUSTED
from privbind.standing.entries import Entry, parse

from ..harness.fuzzing import fuzz

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = "io.kubernetes.cri.sandbox-namespace"
FILE = """
[[grant]]
container = { "io.kubernetes.cri.sandbox-namespace" = "ingress" }
allow = ["tcp:80", "tcp:443"]
[[grant]]
container = { "io.kubernetes.cri.sandbox-namespace" = "ingress", "io.kubernetes.cri.container-name" = "dns" }
allow = "udp:53"
[[grant]]
container = { "io.kubernetes.pod.namespace" = "ingress" }
allow = "tcp:81"
"""
INGRESS: dict[str, object] = {NAMESPACE: "ingress"}


def entries(text: str = FILE) -> tuple[Entry, ...]:
    return parse(text.encode(), "f.toml")


def granted(annotations: dict[str, object], runtime: str | None = "containerd", own: str = "") -> str:
    found = decide(annotations, runtime, entries(), Policy.parse([own]) if own else None)
    return str(found.policy or "")


@pytest.mark.parametrize(
    ("annotations", "runtime", "expected"),
    [
        ({}, "containerd", ""),
        (INGRESS, "containerd", "tcp:80,tcp:443"),
        (INGRESS, "cri-o", ""),
        (INGRESS, None, ""),
        (INGRESS, "podman", ""),
        ({NAMESPACE: "Ingress"}, "containerd", ""),
        ({NAMESPACE: "ingress "}, "containerd", ""),
        ({NAMESPACE: ["ingress"]}, "containerd", ""),
        ({NAMESPACE: None}, "containerd", ""),
        (INGRESS | {"io.kubernetes.cri.container-name": "dns"}, "containerd", "tcp:80,tcp:443,udp:53"),
        ({"io.kubernetes.cri.container-name": "dns"}, "containerd", ""),
        ({"io.kubernetes.pod.namespace": "ingress"}, "cri-o", "tcp:81"),
        ({"io.kubernetes.pod.namespace": "ingress"}, "containerd", ""),
        ({"io.kubernetes.cri.image-name": "ingress"}, "containerd", ""),
    ],
)
def test_all_annotations_of_an_entry_must_match_and_be_the_runtimes(
    annotations: dict[str, object], runtime: str | None, expected: str
) -> None:
    assert granted(annotations, runtime) == expected


@pytest.mark.parametrize(
    ("asked", "expected", "refused"),
    [
        ("tcp:80", "tcp:80", 0),
        ("tcp:80,tcp:443", "tcp:80,tcp:443", 0),
        (" tcp:80  tcp:443\n", "tcp:80,tcp:443", 0),
        ("tcp:127.0.0.1:80", "tcp:127.0.0.1:80", 0),
        ("", "", 0),
        ("tcp:81", "", 1),
        ("80", "", 1),  # UDP, too
        ("any", "", 1),
        ("tcp:80,tcp:81", "tcp:80", 1),
        ("tcp:1-1023", "", 1),
        ("nonsense", "", 1),
        ("tcp:80,nonsense,\0", "tcp:80", 2),
        ("tcp:80," * MAX_ASKED, "", 1),
        ("tcp:80," * 500, "tcp:80", 0),
        (",".join(f"tcp:{port}" for port in range(80, 180)), "tcp:80", 99),
        (",".join(f"tcp:{port}" for port in range(80, 181)), "", 1),
        (["tcp:80"], "", 1),
        (None, "", 1),
    ],
)
def test_the_annotation_narrows(asked: object, expected: str, refused: int) -> None:
    """What is bad, or beyond the grant, gives nothing and is told."""
    found = decide(INGRESS | {ALLOW: asked}, "containerd", entries(), None)
    assert str(found.policy or "") == expected
    assert len(found.refused) == refused


def test_without_a_grant_the_annotation_gives_nothing() -> None:
    found = decide({ALLOW: "tcp:80"}, "containerd", entries(), None)
    assert found == Decision(None, (), (f"annotation {ALLOW} asks for tcp:80, beyond what is granted: nothing",))


def test_the_hooks_own_arguments_grant_under_any_runtime() -> None:
    """Narrowed as well, and beside the files where the runtime's annotations count."""
    assert granted({}, None, "tcp:80-90") == "tcp:80-90"
    assert granted({ALLOW: "tcp:85"}, None, "tcp:80-90") == "tcp:85"
    assert granted({ALLOW: "tcp:91"}, None, "tcp:80-90") == ""
    assert granted(INGRESS, "containerd", "tcp:90") == "tcp:90,tcp:80,tcp:443"


NAMES = st.sampled_from([*KNOWN, ALLOW, "io.kubernetes.cri.image-name", "x"])
VALUES = st.one_of(st.sampled_from(["ingress", "dns", "tcp:80", "tcp:81 udp:53", "any", ""]), st.text(), st.none())


@fuzz
@given(st.dictionaries(NAMES, VALUES), st.sampled_from([None, *TRUSTED, "podman"]), st.sampled_from(["", "tcp:80"]))
def test_nobody_gets_more_than_the_administrator_grants(
    annotations: dict[str, object], runtime: str | None, own: str
) -> None:
    """Whatever annotations say: what comes is covered by what the same container gets without the one that narrows."""
    arguments = Policy.parse([own]) if own else None
    wide = decide({name: found for name, found in annotations.items() if name != ALLOW}, runtime, entries(), arguments)
    narrow = decide(annotations, runtime, entries(), arguments)
    assert narrow.policy is None or (wide.policy is not None and wide.policy.covers(narrow.policy))
    if runtime not in TRUSTED:
        assert wide.policy == arguments


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--root /run create --bundle /b id", "/b"),
        ("--systemd-cgroup create -b /b --pid-file p id", "/b"),
        ("create --bundle=/b id", "/b"),
        ("run id", "."),
        ("--root /run start id", None),
        ("exec --bundle /b id true", None),
        ("--version", None),
        ("", None),
        ("create id --bundle", "."),
    ],
)
def test_the_bundle_of_a_runtimes_arguments(line: str, expected: str | None) -> None:
    assert bundle.bundle_of(line.split()) == expected


def test_the_hook_is_put_beside_others_and_only_once() -> None:
    config: dict[str, Any] = {"hooks": {"createRuntime": [{"path": "/other"}], "poststop": []}}
    assert bundle.with_hook(config, "/hook", ["tcp:80"])
    assert not bundle.with_hook(config, "/hook", ["tcp:80"])
    ours = {"path": "/hook", "args": ["privbind-oci-hook", "--allow=tcp:80"]}
    assert config == {"hooks": {"createRuntime": [{"path": "/other"}, ours], "poststop": []}}


@pytest.mark.parametrize("config", [{"hooks": []}, {"hooks": {"createRuntime": {}}}, {"hooks": {"createRuntime": "x"}}])
def test_a_bundle_that_makes_no_sense_is_left_alone(config: dict[str, Any]) -> None:
    with pytest.raises(PrivbindError):
        bundle.with_hook(config, "/hook", ["tcp:80"])


def test_where_containerds_client_is_not_found_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is no OCI runtime, and distributions of Kubernetes have it in folders of their own."""
    monkeypatch.setattr(oci_install, "_BINARIES", (str(tmp_path),))
    asked = "cannot ask for containerd's own specification"
    told = f"{asked}: ctr is not in {tmp_path} (it comes with containerd: link it there)"
    with pytest.raises(PrivbindError, match=f"^{re.escape(told)}$"):
        oci_install._spec()
