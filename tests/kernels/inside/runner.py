"""What runs everything in a guest: the tests that the kernel's command line names, and then powers the guest off.

``privbind.tests=`` is a list of words for pytest, separated by ";"; ``privbind.limit=`` bounds it, in seconds, and
``privbind.patience=`` says how slow this guest is. With ``privbind.again=`` there is a soft reboot first, which leaves
/run as it is, and the tests are those after it.
What the tests said is left on the last disk, as a tar file: junit.xml, kernel.log, status.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HOME = Path("/opt/guest")
OUT = Path("/run/guest")
_TO_END_S = 120
"""How long tests that are interrupted have to say what they found."""


def words() -> dict[str, str]:
    """The kernel's command line; a "+" stands for a space."""
    line = Path("/proc/cmdline").read_text().split()
    return {name: text for name, _, text in (word.partition("=") for word in line)}


def main() -> None:
    """Run the tests and power off, whatever happens."""
    given = words()
    print("guest: up", flush=True)
    if "privbind.again" in given and not OUT.exists():
        OUT.mkdir()
        # This unit runs when the boot is complete, as seen from units that have no order with it.
        subprocess.run(["systemctl", "soft-reboot"], check=True)
        return
    OUT.mkdir(exist_ok=True)
    began = time.monotonic()
    status = "failed"
    try:
        status = str(run_tests(given))
    except subprocess.TimeoutExpired:
        status = "too long"
    finally:
        try:
            tell(status, time.monotonic() - began)
        finally:
            if "privbind.shell" not in given:
                subprocess.run(["busybox", "poweroff", "-f"], check=False)


def tell(status: str, seconds: float) -> None:
    """Leave what there is to say."""
    leave(
        {
            "status": f"{status}\n".encode(),
            "kernel.log": subprocess.run(["dmesg"], stdout=subprocess.PIPE, check=False).stdout,
            "seconds": f"{seconds:.1f} {Path('/proc/uptime').read_text().split()[0]}\n".encode(),
            **{path.name: path.read_bytes() for path in OUT.iterdir() if path.is_file()},
        }
    )
    print(f"guest: done ({status})", flush=True)


def run_tests(given: dict[str, str]) -> int:
    """Run pytest; its exit status."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(HOME / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PRIVBIND_COMMAND": "/opt/privbind/bin/privbind",
        "PRIVBIND_TEST_PROGRAMS": str(HOME / "programs"),
        "PRIVBIND_TEST_PATIENCE": given["privbind.patience"],
        "PRIVBIND_GUEST": given["privbind.guest"],
    }
    command = [
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=15", "--tb=short", "-q", "--color=no"),
        "--override-ini=junit_family=xunit1",  # which has room for what tests note
        f"--junitxml={OUT / 'junit.xml'}",
        *given["privbind.tests"].replace("+", " ").split(";"),
    ]
    with subprocess.Popen(command, cwd=HOME, env=environment) as tests:
        try:
            return tests.wait(float(given["privbind.limit"]))
        except subprocess.TimeoutExpired:
            tests.send_signal(signal.SIGINT)  # so that what has been tried is told
            with contextlib.suppress(subprocess.TimeoutExpired):
                tests.wait(_TO_END_S)
            tests.kill()
            raise


def leave(files: dict[str, bytes]) -> None:
    """Write these files to the last disk."""
    disk = max(Path("/dev").glob("vd?"))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    fd = os.open(disk, os.O_WRONLY)
    try:
        rest = memoryview(data.getvalue())
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
