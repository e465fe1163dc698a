"""Bad input: one line on stderr, exit status 125, nothing started, nothing changed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ..harness.host import Host, python
from ..harness.install import world_readable_folder

OK = ["-u", "nobody", "--via=preload"]


def refused(host: Host, words: list[str | Path], why: str, status: int = 125) -> None:
    """Check that privbind refuses these arguments with this reason, and starts nothing."""
    found = host.run([host.privbind, *words])
    assert found.status == status, found
    assert found.out == "", found
    assert len(found.err.splitlines()) == 1, found
    assert found.err.startswith("privbind: "), found
    assert why in found.err, found


MARK = ["touch", "/tmp/privbind-must-not-start"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no command given"),
        (["true"], "no user given"),
        (["-u", "nosuchuser", "true"], "unknown user 'nosuchuser'"),
        (["-u", "", "true"], "unknown user ''"),
        (["-u", "3x", "true"], "unknown user '3x'"),
        (["-u", "-1", "true"], "unknown user '-1'"),
        (["-u", "4294967296", "true"], "'4294967296' is not a whole number from 0 to 4294967295"),
        (["-u", "4294967295", "-g", "1", "true"], "no change"),
        (["-u", "nobody", "-g", "4294967295", "true"], "no change"),
        (["-u", "root", "true"], "must not run as root"),
        (["-u", "0", "true"], "must not run as root"),
        (["-u", "00", "-g", "1", "true"], "must not run as root"),
        (["-u", "123456", "true"], "uid 123456 has no passwd entry"),
        (["-u", "nobody", "-g", "nosuchgroup", "true"], "unknown group 'nosuchgroup'"),
        (["-u", "nobody", "-g", "", "true"], "unknown group ''"),
        (["-u", "nobody", "-g", "4294967296", "true"], "'4294967296' is not a whole number"),
        (["-u", "nobody", "-g", "-1", "true"], "unknown group '-1'"),
        (["-u", "nobody", "-g", "3x", "true"], "unknown group '3x'"),
        ([*OK, "-n", "-1", "true"], "-n: '-1' is not a whole number from 0 to 4294967295"),
        ([*OK, "-n", "3x", "true"], "-n: '3x'"),
        ([*OK, "-n", "", "true"], "-n: ''"),
        ([*OK, "-n", "4294967296", "true"], "-n: '4294967296'"),
        ([*OK, "-a", "sctp:80", "true"], "unknown protocol 'sctp'"),
        ([*OK, "-a", "0", "true"], "port '0'"),
        ([*OK, "-a", "65536", "true"], "port '65536'"),
        ([*OK, "-a", "3x", "true"], "'3x' is neither"),
        ([*OK, "-a", "-1", "true"], "'-1' is neither"),
        ([*OK, "-a", "4294967296", "true"], "port '4294967296'"),
        ([*OK, "-a", "20-10", "true"], "runs backwards"),
        ([*OK, "-a", "1.2.3:80", "true"], "not an IPv4 address"),
        ([*OK, "-a", "[::g]:80", "true"], "not an IPv6 address"),
        ([*OK, "-a", "10.0.0.0/33:80", "true"], "prefix '33'"),
        ([*OK, "-a", "10.0.0.1/8:80", "true"], "bits set below its prefix"),
        ([*OK, "-a", "", "true"], "it is empty"),
        ([*OK, "-a", "80,,81", "true"], "it is empty"),
        ([*OK, "-a", "nosuchservice", "true"], "nor a known service"),
        ([*OK, "-a", ",".join(["80"] * 1001), "true"], "1001 rules"),
        ([*OK, "-r", "80,x", "true"], "-r: ports '80,x'"),
        ([*OK, "-r", "", "true"], "-r: ports ''"),
        ([*OK, "-r", "0", "true"], "-r: ports '0'"),
        ([*OK], "no command given"),
        ([*OK, "--"], "no command given"),
        ([*OK, "-x", "true"], "unknown option -x"),
        ([*OK, "--nosuch", "true"], "unknown option --nosuch"),
        (["-u", "nobody", "--via", "magic", "true"], "unknown mechanism 'magic'"),
        (["-u"], "option -u needs a value"),
        ([*OK, "-l", "/nonexistent.so", "true"], "the shim '/nonexistent.so' does not exist"),
        ([*OK, "-l", "", "true"], "the shim"),
        ([*OK, "-l", "/etc/passwd", "true"], "not a shared ELF library"),
        ([*OK, "-l", "/etc", "true"], "cannot read the shim '/etc'"),
        ([*OK, "-l", "/dev/null", "true"], "not a regular file"),
        (["-u", "nobody", "--via=bpf", "-l", "/x.so", "true"], "-l goes with --via preload"),
        (["-u", "123456", "-g", "1", "--via=preload", "--set-home", "true"], "--set-home"),
    ],
)
def test_bad_input(host: Host, words: list[str], why: str) -> None:
    """Each has its reason; the command would leave a mark, and does not."""
    mark = Path(MARK[-1])
    if words and words[-1] == "true":
        words = [*words[:-1], *MARK]
    refused(host, list(words), why)
    assert not mark.exists()


def test_a_shim_for_another_architecture(host: Host, folder: Path) -> None:
    """ld.so would leave it out with no more than a warning."""
    shim = folder / "other.so"
    data = bytearray(Path("/lib/x86_64-linux-gnu/libm.so.6").read_bytes())
    data[18:20] = (183).to_bytes(2, "little")
    shim.write_bytes(data)
    refused(host, [*OK, "-l", shim, *MARK], "is for aarch64, not for x86_64")


@pytest.mark.parametrize(("name", "what"), [("a b", "a space"), ("a:b", "a colon"), ("a$b", "a dollar sign")])
def test_a_shim_path_that_cannot_be_preloaded(host: Host, folder: Path, name: str, what: str) -> None:
    """ld.so takes the path apart at these."""
    shim = folder / name / "x.so"
    shim.parent.mkdir()
    shutil.copy("/lib/x86_64-linux-gnu/libm.so.6", shim)
    refused(host, [*OK, "-l", shim, *MARK], f"has {what} in it")


def test_a_shim_that_the_account_cannot_read(host: Host, folder: Path) -> None:
    """ld.so would drop the grant in silence."""
    shim = folder / "x.so"
    shutil.copy("/lib/x86_64-linux-gnu/libm.so.6", shim)
    shim.chmod(0o640)
    refused(host, [*OK, "-l", shim, *MARK], "cannot read the shim")
    shim.chmod(0o644)
    folder.chmod(0o700)
    refused(host, [*OK, "-l", shim, *MARK], "cannot read the shim")
    folder.chmod(0o755)
    host.run([host.privbind, *OK, "-l", shim, "true"]).ok()


def test_a_relative_shim_path_is_taken_from_the_working_directory(host: Host, folder: Path) -> None:
    """And preloaded by its full name, since the command may change directory."""
    shutil.copy("/lib/x86_64-linux-gnu/libm.so.6", folder / "x.so")
    found = host.run([host.privbind, *OK, "-l", "x.so", "sh", "-c", "echo $LD_PRELOAD"], cwd=folder).ok()
    assert found.out.split(":")[0].strip() == f"{folder}/x.so"


def compiled(folder: Path, name: str, *options: str) -> Path:
    """A program that does nothing."""
    program = folder / name
    subprocess.run(["gcc", "-x", "c", "-", "-o", program, *options], input=b"int main(void){return 0;}", check=True)
    return program


def test_a_command_that_preload_cannot_reach(host: Host, folder: Path) -> None:
    """Static, of another architecture, setuid, with file capabilities; through links and scripts."""
    static = compiled(folder, "static", "-static")
    pie = compiled(folder, "static-pie", "-static-pie", "-fPIE")
    for program in (static, pie):
        refused(host, [*OK, program], "statically linked")
    link = folder / "link"
    link.symlink_to(static)
    refused(host, [*OK, link], "statically linked")
    script = folder / "script"
    script.write_text(f"#!{link} -x\n")
    script.chmod(0o755)
    refused(host, [*OK, script], "statically linked")
    second = folder / "second"
    second.write_text(f"#! {script}\n")
    second.chmod(0o755)
    refused(host, [*OK, second], "statically linked")

    dynamic = compiled(folder, "dynamic")
    host.run([host.privbind, *OK, dynamic]).ok()
    foreign = folder / "foreign"
    data = bytearray(dynamic.read_bytes())
    data[18:20] = (183).to_bytes(2, "little")
    foreign.write_bytes(data)
    foreign.chmod(0o755)
    refused(host, [*OK, foreign], "program for aarch64")

    setuid = folder / "setuid"
    shutil.copy(dynamic, setuid)
    setuid.chmod(0o4755)
    refused(host, [*OK, setuid], "setuid to uid 0")
    host.run([host.privbind, *OK, "--no-new-privs", setuid]).ok()
    setuid.chmod(0o2755)
    refused(host, [*OK, setuid], "setgid to gid 0")
    setuid.chmod(0o755)
    subprocess.run(["setcap", "cap_net_raw+ep", setuid], check=True)
    refused(host, [*OK, setuid], "file capabilities")


@pytest.mark.parametrize("mechanism", ["auto", "preload"])
def test_a_script_cannot_have_root_open_what_its_user_may_not(host: Host, folder: Path, mechanism: str) -> None:
    """A pipe, a device or a file of root's in a #! line is not opened with root's rights, and nothing waits."""
    secret = folder / "secret"
    secret.write_text("#!/words-of-the-secret\n")
    secret.chmod(0o600)
    pipe = folder / "pipe"
    os.mkfifo(pipe, 0o666)
    device = folder / "device"
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    for target, why in ((secret, "Permission denied"), (pipe, "not a regular file"), (device, "not a regular file")):
        script = folder / "script"
        script.write_text(f"#!{target}\n")
        script.chmod(0o755)
        words: list[str | Path] = ["-u", "nobody", f"--via={mechanism}", "--dry-run", script]
        refused(host, words, f"as nobody: its interpreter '{target}': ", 126)
        refused(host, words, why, 126)
        assert "words-of-the-secret" not in host.run([host.privbind, *words]).err


def test_a_program_that_may_be_executed_but_not_read(host: Host, folder: Path) -> None:
    """It is looked at all the same."""
    program = folder / "true"
    shutil.copy("/bin/true", program)
    program.chmod(0o711)
    host.run([host.privbind, *OK, program]).ok()
    static = compiled(folder, "static", "-static")
    static.chmod(0o711)
    refused(host, [*OK, static], "statically linked")


def test_not_executable_and_not_found(host: Host, folder: Path) -> None:
    """126 and 127, as shells have it."""
    plain = folder / "plain"
    plain.write_text("x")
    refused(host, [*OK, plain], "cannot execute", 126)
    refused(host, [*OK, folder], "not a regular file", 126)
    refused(host, [*OK, "/nonexistent"], "was not found", 127)
    refused(host, [*OK, "nosuchcommand"], "command 'nosuchcommand' was not found", 127)
    refused(host, [*OK, ""], "was not found", 127)
    private = folder / "private"
    shutil.copy("/bin/true", private)
    private.chmod(0o700)
    refused(host, [*OK, private], "as nobody", 126)
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copy("/bin/true", hidden / "true")
    refused(host, [*OK, hidden / "true"], "Permission denied", 126)


def test_the_path_is_searched_as_the_account_would(host: Host, folder: Path) -> None:
    """A folder that only root may enter does not count; the next one does."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    shutil.copy("/bin/false", private / "tool")
    public = folder / "public"
    public.mkdir()
    shutil.copy("/bin/true", public / "tool")

    def run(path: str) -> int:
        return host.run(["env", f"PATH={path}", host.privbind, *OK, "tool"], cwd=public).status

    assert run(f"{private}:{public}") == 0
    assert run(str(private)) == 126
    assert run(f":{private}") == 0
    assert run(f"{private}:/nonexistent") == 126
    assert run("/nonexistent") == 127
    assert host.run(["env", "-i", host.privbind, *OK, "true"]).status == 0


def test_a_script_without_interpreter_line_is_run_by_the_shell(host: Host, folder: Path) -> None:
    """As execvp(3) does."""
    script = folder / "script"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)
    assert host.run([host.privbind, *OK, script, "x"]).ok().out == f"{script} x\n"


def test_where_nothing_is_reserved_no_mechanism_is_used(installed: Path) -> None:
    """Ports that everybody may bind need no grant: one warning line, and the command is started."""
    host = Host(installed, "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        bind = python("import socket; socket.socket().bind(('127.0.0.1', 80)); print('bound')")
        assert host.plain(bind).ok().out == "bound\n"
        found = host.granted(bind, "-v")
        assert found.ok().out == "bound\n"
        assert "mechanism: none" in found.err
        assert sum("warning" in line for line in found.err.splitlines()) == 1
        found = host.granted(["env"], "--allow=tcp:80").ok()
        assert "LD_PRELOAD" not in found.out
        assert sum("warning" in line for line in found.err.splitlines()) == 1
    finally:
        host.close()


def test_where_some_of_it_is_not_reserved(installed: Path) -> None:
    """Lowered and raised: one warning for what others may bind too; what is reserved is granted."""
    host = Host(installed, "echo 81 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        bind = "import socket; socket.socket().bind(('127.0.0.1', {}))"
        found = host.granted(python(bind.format(80)), "--via=preload", "--allow=tcp:80,tcp:443").ok()
        assert found.err.splitlines() == [
            (
                "privbind: warning: tcp:443 needs no grant: "
                "ports from 81 on are not reserved here, every program may bind them"
            )
        ]
        assert host.plain(python(bind.format(80))).status == 1
    finally:
        host.close()
    host = Host(installed, "echo 9000 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
    try:
        assert host.plain(python(bind.format(8080))).status == 1
        found = host.granted(python(bind.format(8080)), "--via=preload", "--allow=tcp:8080").ok()
        assert found.err == ""
    finally:
        host.close()


def test_dry_run_starts_nothing(host: Host) -> None:
    """It tells the story and stops before anything is prepared."""
    with world_readable_folder() as folder:
        found = host.run([host.privbind, *OK, "--dry-run", "--allow=tcp:80", "touch", folder / "mark"]).ok()
        assert not (folder / "mark").exists()
    assert [line.split(": ")[1] for line in found.err.splitlines()][:3] == ["account", "grant", "mechanism"]


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        ("bpf", "# tcp:127.0.0.1:80"),
        ("seccomp", "on bind(2) alone"),
        ("preload", "LD_PRELOAD="),
    ],
)
def test_dry_run_shows_how(host: Host, mechanism: str, words: str) -> None:
    """With -vv also what would be loaded: for bpf the programs, with the rules beside their instructions."""
    command = host.command(["true"], f"--via={mechanism}", "--allow=tcp:127.0.0.1:80", "--dry-run", "-vv")
    assert words in host.run(command).ok().err


def test_help_and_version(host: Host) -> None:
    """On standard output, with exit status 0, without privilege."""
    found = host.plain([host.privbind, "--help"]).ok()
    assert found.out.startswith("Usage: privbind -u USER")
    assert host.plain([host.privbind, "-h"]).ok().out == found.out
    assert host.plain([host.privbind, "--version"]).ok().out.startswith("privbind 2")
    full = host.run(["sh", "-c", f"{host.privbind} --help > /dev/full"])
    assert full.status == 125
