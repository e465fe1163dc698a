# SPDX-License-Identifier: MIT
"""Packages from Debian's archives by name, through an apt configuration of our own.

The addresses are those that this machine's own apt uses; its lists, its configuration and its packages stay as they
are. Signatures are checked against Debian's own keys.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from . import CACHE, FailedError, run

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def codename() -> str:
    """The release of Debian that this machine runs."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    if not found:
        raise FailedError("/etc/os-release names no release: kernels are fetched on Debian only")
    return found[1]


def mirrors() -> dict[bool, str]:
    """Where this machine fetches Debian from: by whether it is the archive of security updates."""
    release = codename()
    lines = run("apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Identifier: Packages").splitlines()
    sites = dict(reversed([(suite, site) for suite, _, site in (line.partition(" ") for line in lines)]))
    if release not in sites:
        raise FailedError(
            f"apt on this machine has no source for {release}, whose mirror would be used, or no lists of it "
            "(apt-get update fetches them)"
        )
    return {False: sites[release], True: sites.get(f"{release}-security", "")}


class Archive:
    """Some suites of Debian, for one architecture."""

    def __init__(self, suites: tuple[str, ...], arch: str, kind: str = "deb") -> None:
        """Read the lists of packages. A suite that is not there is passed over as long as another is.

        ``kind`` is "deb", or "deb-src" for source packages.
        """
        self.arch = arch
        self._folder = CACHE / "apt" / f"{'+'.join(suites)}-{arch}{kind.removeprefix('deb')}"
        for name in ("lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        sites = mirrors()
        self.sources = [
            f"{kind} [arch={arch} signed-by={_KEYS}] {site} {suite} main"
            for suite in suites
            if (site := sites[suite.endswith("-security")])
        ]
        (self._folder / "sources.list").write_text("".join(f"{line}\n" for line in self.sources))
        try:
            self._apt("apt-get", "update")
        except FailedError:
            if not self._apt("apt-cache", "pkgnames", "linux-image-").strip():
                raise

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        settings = {
            "Dir::Etc::sourcelist": self._folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::Lists": self._folder / "lists",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder / "cache",
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Sandbox::User": "root",
            "APT::Update::Post-Invoke-Success": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        options = [word for name, setting in settings.items() for word in ("-o", f"{name}={setting}")]
        return run(program, "-qq", *options, *words, cwd=cwd)

    def depends(self, package: str) -> list[tuple[str, str]]:
        """What the newest version of a package depends on, the first of each alternative: name and version wanted."""
        text = self._apt("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Depends: (.*)$", text, re.MULTILINE)
        return re.findall(r"(?:^|, )([a-z0-9][a-z0-9.+-]*)(?: \(= ([^)]+)\))?", found[1] if found else "")

    def version(self, package: str) -> str:
        """The newest version of a package."""
        text = self._apt("apt-cache", "show", "--no-all-versions", package)
        found = re.search(r"^Version: (\S+)$", text, re.MULTILINE)
        if not found:
            raise FailedError(f"there is no package {package} for {self.arch}")
        return found[1]

    def download(self, packages: list[str], folder: Path) -> None:
        """Fetch these packages into a folder."""
        self._apt("apt-get", "download", *packages, cwd=folder)

    def download_source(self, packages: list[str], folder: Path) -> None:
        """Fetch the parts of these source packages into a folder."""
        self._apt("apt-get", "source", "--download-only", *packages, cwd=folder)

    def unpack(self, packages: list[str], folder: Path) -> None:
        """Fetch these packages, and unpack their files into a folder."""
        # A new folder each time: what an interrupted download left is not to be unpacked with these.
        with tempfile.TemporaryDirectory(prefix="debs-", dir=self._folder) as name:
            debs = Path(name)
            self.download(packages, debs)
            for deb in debs.glob("*.deb"):
                run("dpkg", "-x", deb, folder)
