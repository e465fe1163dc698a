"""What the README says to type, and its first example run and looked at."""

from __future__ import annotations

import re
from pathlib import Path

DRIVER = """
import os, shlex, subprocess, sys, time, urllib.request
example = shlex.split(sys.argv[1])
command = example[example.index("--") + 1:]
as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
control = subprocess.run([*as_nobody, *command], capture_output=True, text=True, timeout=60)
assert "Permission denied" in control.stderr, control
server = subprocess.Popen(example, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    status, end = 0, time.monotonic() + 60
    while not status and time.monotonic() < end:
        assert server.poll() is None, server.returncode
        try:
            status = urllib.request.urlopen("http://127.0.0.1/", timeout=30).status
        except urllib.error.URLError:
            time.sleep(0.01)
    facts = dict(line.split(":\\t", 1) for line in open(f"/proc/{server.pid}/status") if ":\\t" in line)
    print(status, *facts["Uid"].split(), int(facts["CapPrm"], 16), int(facts["CapEff"], 16))
    listed = subprocess.run(["privbindctl", "ls"], capture_output=True, text=True, timeout=60)
    print("listed", "tcp:80" in listed.stdout and str(server.pid) in listed.stdout)
    print("doctor", subprocess.run(["privbindctl", "doctor"], stdout=subprocess.DEVNULL, timeout=60).returncode)
finally:
    server.kill()
    server.wait()
other = [word.replace("80", "81") for word in command]
refused = subprocess.run([*example[:example.index("--") + 1], *other], capture_output=True, text=True, timeout=60)
print("81", "Permission denied" in refused.stderr)
"""
"""Runs the README's example, a server on port 80, and prints what it is; without privbind it must fail."""

EXAMPLE_SAYS = ["200 65534 65534 65534 65534 0 0", "listed True", "doctor 0", "81 True"]
"""Its last lines."""


def blocks(clone: Path) -> list[str]:
    """The README's code blocks."""
    text = (clone / "README.md").read_text()
    found = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    return [re.sub("^    ", "", lines, flags=re.MULTILINE) for lines in found]


def block(clone: Path, start: str) -> str:
    """The one that starts so."""
    (found,) = [text for text in blocks(clone) if text.startswith(start)]
    return found
