"""The Debian package: what is in it, and that it installs, serves, is upgraded and goes away without a trace."""

from __future__ import annotations

import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from privbind import __version__

from ..harness.debian import Built, Debian, repacked
from ..harness.host import BIND_WHEN_TOLD, MANY, TIMEOUT_S, helper_of, read_line, tell
from ..harness.install import MODULES, ROOT, run
from ..harness.readme import DRIVER, EXAMPLE_SAYS, block

PYTHON = "/usr/bin/python3"
LINKED = "/usr/lib/python3/dist-packages/privbind"
"""What makes the private modules those of `import privbind`."""
EACCES = "13"

OLD = "1.2-1.1"
"""The last version that Debian had, in bullseye."""

ETC = {"/etc/privbind/grants.d/README", "/etc/privbind/grants.d/example.toml"}
PROGRAMS = {f"/usr/sbin/{name}" for name in ("privbind", "privbindctl", "privbind-oci-hook")}
EXECUTABLE = {
    *PROGRAMS,
    "/usr/share/python3/runtime.d/privbind.rtupdate",
    "/usr/share/doc/privbind/examples/kubernetes/node.sh",
}
DOCS = "/usr/share/doc/privbind"
PAGES = ("man1/privbind.1", "man1/privbindctl.1", "man1/privbind-oci-hook.1", "man5/privbind-grants.5")


@pytest.fixture
def debian(built: Built) -> Iterator[Debian]:
    """A new system with the package, installed by apt from its file."""
    with built.debian() as debian:
        debian.apt("install", f"/mnt/{built.deb.name}")
        yield debian


def expected(built: Built) -> set[str]:
    """Every file that the package has to have."""
    units = [f"{path.name}" for path in (ROOT / "packaging/systemd").iterdir()]
    usr = "" if built.suite == "bookworm" else "/usr"
    examples = [path for name in ("openrc", "kubernetes") for path in (ROOT / "packaging" / name).iterdir()]
    texts = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "SECURITY.md"]
    return {
        *ETC,
        *PROGRAMS,
        f"/usr/lib/{platform.machine()}-linux-gnu/privbind/libprivbind.so",
        "/usr/share/privbind/privbind/_preload/libprivbind.so",
        *(f"/usr/share/privbind/{module}" for module in MODULES),
        LINKED,
        "/usr/share/privbind/hooks.d/privbind.json",
        "/usr/share/python3/runtime.d/privbind.rtupdate",
        *(f"{usr}/lib/systemd/system/{unit}" for unit in units),
        *(f"/usr/share/man/{page}.gz" for page in PAGES),
        "/usr/share/bash-completion/completions/privbind",
        "/usr/share/bash-completion/completions/privbindctl",
        "/usr/share/fish/vendor_completions.d/privbind.fish",
        "/usr/share/fish/vendor_completions.d/privbindctl.fish",
        "/usr/share/zsh/vendor-completions/_privbind",
        "/usr/share/lintian/overrides/privbind",
        *(f"{DOCS}/{name}" for name in ("changelog", "changelog.Debian", "copyright")),
        *(f"{DOCS}/examples/{path.relative_to(ROOT / 'packaging')}" for path in examples),
        *(f"{DOCS}/{text.name}" for text in texts),
    }


def test_every_file_of_the_package(built: Built) -> None:
    """All are root's, nobody else may write them, nothing is compiled for one Python or unexpected."""
    found = set()
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", built.deb], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as tar:
        for entry in tar:
            name = entry.name[1:]
            assert (entry.uid, entry.gid) == (0, 0), name
            if entry.isdir():
                assert entry.mode == 0o755, name
                continue
            found.add(name.removesuffix(".gz") if name.startswith(DOCS) else name)
            if entry.issym():
                assert name in ("/usr/share/privbind/privbind/_preload/libprivbind.so", LINKED)
                continue
            assert entry.isreg(), name
            assert entry.mode == (0o755 if name in EXECUTABLE else 0o644), name
    assert found == expected(built)
    conffiles = run("dpkg-deb", "-I", built.deb, "conffiles").split()
    assert set(conffiles) == ETC


PROGRAM = """
import os, privbind, subprocess
argv = privbind.command(["id", "-u"], user="daemon", allow="tcp:80")
print(argv[0], subprocess.run(argv, capture_output=True, text=True).stdout.strip())
print(privbind.become("nobody", allow="tcp:80").user, os.getuid())
print(privbind.may_bind("tcp:80"), privbind.may_bind("tcp:81"))
"""


def test_a_python_program_uses_it(debian: Debian) -> None:
    """The API is there for the system's Python, and finds the package's command."""
    found = debian.run([PYTHON, "-I", "-c", PROGRAM]).ok()
    assert found.lines == ["/usr/sbin/privbind 1", "nobody 65534", "True False"]


def test_what_lintian_says(built: Built) -> None:
    """No error and no warning, or the build would have failed; the rest is known."""
    known = r"I: privbind: package-supports-alternative-init-but-no-init.d-script \[lib/.*/privbind-\w+.service\]"
    assert [line for line in built.said.splitlines() if not re.fullmatch(known, line)] == []


def test_the_source_package_has_no_compiled_file(built: Built) -> None:
    """BPF programs, too, are shipped as what makes them."""
    (orig,) = built.folder.glob("*.orig.tar.gz")
    (debian,) = built.folder.glob("*.debian.tar.xz")
    for archive in (orig, debian):
        with tarfile.open(archive) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                if file is not None and not entry.name.endswith(".svg"):
                    assert b"\0" not in file.read(), entry.name
    with tarfile.open(orig) as tar:
        names = {entry.name.partition("/")[2] for entry in tar}
    assert {"src/privbind/standing/program.py", "src/privbind/mechanisms/bpf/assembly.py"} <= names


def test_install_serve_and_remove(built: Built) -> None:
    """The README's example as root, and that a purge leaves nothing."""
    with built.debian() as debian:
        before = debian.files()
        debian.apt("install", f"/mnt/{built.deb.name}")
        for page in PAGES:
            name, section = page.rpartition("/")[2].rsplit(".", 1)
            assert "SYNOPSIS" in debian.sh(f"man {section} {name}").out
        assert "SYNOPSIS" in debian.sh("man privbind").out
        assert debian.run(["privbind", "--version"]).out == f"privbind {__version__}\n"
        example = block(ROOT, "privbind -u nobody").strip()
        done = debian.run([PYTHON, "-I", "-c", DRIVER, example]).ok()
        assert done.lines[-4:] == EXAMPLE_SAYS, done
        doctor = debian.run(["privbindctl", "doctor", "--json"]).ok()
        assert json.loads(doctor.out)["installation"] == {
            "how": "Debian's package",
            "package": "/usr/share/privbind/privbind",
            "python": PYTHON,
            "bound_to": None,
            "faults": [],
        }
        compiled = debian.sh("find /usr/share/privbind -name '*.pyc'").lines
        assert compiled, "there is no bytecode: a launch would take twice as long"
        # Installed, but neither enabled nor started.
        assert debian.sh("find /etc/systemd/system /run/systemd -name 'privbind*' 2>/dev/null || :").out == ""
        debian.apt("remove", "privbind")
        assert debian.files() - before == ETC | {"/etc/privbind/", "/etc/privbind/grants.d/"}
        debian.path("/etc/privbind/grants.d/mine.toml").write_text("")
        debian.apt("purge", "privbind")
        assert debian.files() == before


def test_standing_grants_by_the_units_own_commands(debian: Debian) -> None:
    """They hold until the package is removed, not longer."""
    debian.keep_to_own_cgroup()
    debian.sh("useradd alice")
    as_alice = ["setpriv", "--reuid=alice", "--regid=alice", "--clear-groups", PYTHON, "-I", "-c", MANY, "80", "81"]
    load, unload = debian.unit_command("ExecStart"), debian.unit_command("ExecStop")
    debian.path("/etc/privbind/grants.d/web.toml").write_text('[[grant]]\nuser = "alice"\nallow = "tcp:80"\n')
    assert debian.run(as_alice).ok().out == "EACCES EACCES\n"
    for _ in range(2):
        debian.run(load).ok()
        assert debian.run(as_alice).ok().out == "ok EACCES\n"
        debian.run(unload).ok()
        assert debian.run(as_alice).ok().out == "EACCES EACCES\n"
    debian.run(load).ok()
    assert debian.run(as_alice).ok().out == "ok EACCES\n"
    debian.apt("remove", "privbind")
    assert debian.run(as_alice).ok().out == "EACCES EACCES\n"
    assert not debian.path("/run/privbind.lock").exists()


def test_an_upgrade_disturbs_nothing_that_runs(debian: Debian, built: Built) -> None:
    """Launches that live, by each mechanism, and a standing grant go on; what starts later is of the new version."""
    newer = "2.0.1"
    repacked(built.deb, built.folder, newer)
    debian.keep_to_own_cgroup()
    debian.sh("useradd alice")
    told = [PYTHON, "-I", "-c", BIND_WHEN_TOLD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    launches = {}
    for port, way in enumerate(("bpf", "seccomp", "preload"), 80):
        command = ["privbind", "-v", "-u", "nobody", "--via", way, "--allow", f"tcp:{port}", "--", *told]
        launches[port] = debian.popen(command, **pipes)
        assert read_line(launches[port]) == "up\n"
    helpers = [helper_of(launches[port]) for port in (81, 82)]
    debian.path("/etc/privbind/grants.d/web.toml").write_text('[[grant]]\nuser = "alice"\nallow = "tcp:90"\n')
    debian.run(["privbindctl", "load"]).ok()
    as_alice = ["setpriv", "--reuid=alice", "--regid=alice", "--clear-groups"]
    user = debian.popen([*as_alice, *told], **pipes)
    assert read_line(user) == "up\n"
    # One has bound before the upgrade, the others bind for the first time after it.
    assert tell(launches[81], 81) == "ok"
    assert tell(user, 90) == "ok"

    debian.apt("install", f"/mnt/privbind_{newer}-1.deb")

    assert debian.run(["privbind", "--version"]).out == f"privbind {newer}\n"
    for port, process in launches.items():
        assert tell(process, port) == "ok"
        assert tell(process, 89) == EACCES
        assert process.poll() is None
    for helper in helpers:
        assert debian.run(["test", "-d", f"/proc/{helper}"]).status == 0
    listed = debian.run(["privbindctl", "ls"]).ok().out
    assert all(f"tcp:{port}" in listed for port in (80, 81, 82, 90))
    assert tell(user, 90) == "ok"
    assert debian.run([*as_alice, PYTHON, "-I", "-c", MANY, "90", "91"]).ok().out == "ok EACCES\n"
    difference = debian.run(["privbindctl", "check", "--diff", "--cgroup=/sys/fs/cgroup"]).ok()
    assert not re.search("^[-+]", difference.out, re.MULTILINE), difference
    again = debian.run(["privbind", "-u", "nobody", "--allow", "tcp:95", "--", PYTHON, "-I", "-c", MANY, "95", "96"])
    assert again.ok().out == "ok EACCES\n"
    for process in (*launches.values(), user):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0


def test_the_packages_own_test(debian: Debian) -> None:
    """What autopkgtest runs, as debian/tests/control says."""
    control = (ROOT / "packaging/debian/tests/control").read_text()
    tests = re.findall(r"^Tests: (.*)$", control, re.MULTILINE)
    assert tests == ["server"]
    script = debian.path("/tmp/server")
    script.write_text((ROOT / "packaging/debian/tests/server").read_text())
    script.chmod(0o755)
    done = debian.run(["env", "AUTOPKGTEST_TMP=/tmp", "/tmp/server"]).ok()
    ways = [line.partition(":")[0] for line in done.lines if line.endswith("served port 80, refused port 81")]
    assert ways == ["bpf", "seccomp", "preload"], done


def test_bytecode_when_python_is_upgraded(debian: Debian) -> None:
    """Debian's python3 calls this hook: what the new interpreter needs is made, what the old one needed is gone."""
    version = debian.sh("py3versions -d").out.strip()
    debian.sh("find /usr/share/privbind -name '*.pyc' -delete")
    debian.sh(f"/usr/share/python3/runtime.d/privbind.rtupdate rtupdate {version} {version}")
    assert debian.sh("find /usr/share/privbind -name '*.pyc'").lines


def test_it_sorts_above_the_old_one(built: Built) -> None:
    """And so apt takes it where that is still installed."""
    version = run("dpkg-deb", "-f", built.deb, "Version").strip()
    for old in (OLD, f"{OLD}+b2"):
        run("dpkg", "--compare-versions", version, "gt", old)
    # What a Debian that had it would have; and from release to release it goes up.
    run("dpkg", "--compare-versions", version, "lt", f"{__version__}-1")
