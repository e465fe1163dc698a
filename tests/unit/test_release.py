"""What keeps a release from being one: each part of `tools/release --check`, on a project that is made up."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

import release
from release import NotReadyError

CHANGELOG = "# Changelog\n\n## [3.1.4] - 2026-01-02\n\n### Added\n\n- Something.\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is ready, with files that stand for what is published."""
    (tmp_path / "src/privbind").mkdir(parents=True)
    (tmp_path / "src/privbind/__init__.py").write_text('__version__ = "3.1.4"\n')
    (tmp_path / "packaging/kubernetes").mkdir(parents=True)
    (tmp_path / "packaging/kubernetes/a.yaml").write_text("image: registry.example/privbind:3.1.4\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    for folder, patterns in release.expected(tmp_path).items():
        (tmp_path / "dist" / folder).mkdir(parents=True)
        for pattern in patterns:
            (tmp_path / "dist" / folder / pattern.replace("*", "amd64")).write_text(f"{folder}/{pattern}")
    found = release.artifacts(tmp_path)
    (tmp_path / "dist" / release.HASHES).write_text(release.hashes(tmp_path, found))
    (tmp_path / "dist" / release.MATERIALS).write_text(release.materials(tmp_path, found))
    return tmp_path


def git(project: Path, *words: str) -> None:
    settings = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *settings, *words], cwd=project, check=True, capture_output=True)


def test_one_that_is_ready(project: Path) -> None:
    checks = (release.check_versions, release.check_changelog, release.check_hashes)
    assert [*release.check(project, checks)] == [
        (True, "version 3.1.4"),
        (True, "CHANGELOG.md: 2026-01-02"),
        (True, "SHA256SUMS, privbind.cdx.json"),
    ]


def test_every_check_is_made(project: Path) -> None:
    """Whatever those before it have found."""
    (project / "src/privbind/__init__.py").write_text('__version__ = "3.1.5.dev1"\n')
    assert len([*release.check(project, release.CHECKS[:3])]) == 3
    assert not any(good for good, _ in release.check(project, release.CHECKS[:3]))


def test_another_version_somewhere(project: Path) -> None:
    (project / "packaging/kubernetes/a.yaml").write_text("image: registry.example/privbind:3.1.3\n")
    with pytest.raises(NotReadyError, match=r"packaging/kubernetes/a.yaml names version 3\.1\.3, not 3\.1\.4"):
        release.check_versions(project)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("## [Unreleased]\n\n## [3.1.3] - 2025-01-02\n", "no section"),
        ("## [3.1.4]\n", "no section"),
        ("## [Unreleased]\n\n## [3.1.4] - 2026-01-02\n", "begins with '\\[Unreleased\\]'"),
        ("## [3.1.4] - 2999-01-02\n", "yet to come"),
    ],
)
def test_a_changelog_that_is_not_dated(project: Path, text: str, says: str) -> None:
    (project / "CHANGELOG.md").write_text(f"# Changelog\n\n{text}")
    with pytest.raises(NotReadyError, match=says):
        release.check_changelog(project)


def test_the_tag(project: Path) -> None:
    git(project, "init", "--quiet")
    git(project, "add", "src", "CHANGELOG.md", "packaging")
    git(project, "commit", "-m", "All of it")
    with pytest.raises(NotReadyError, match=r"no tag v3\.1\.4 on HEAD"):
        release.check_tag(project)
    git(project, "tag", "v3.1.4")
    assert release.check_tag(project) == "tag v3.1.4"
    (project / "CHANGELOG.md").write_text("")
    with pytest.raises(NotReadyError, match=r"not committed:  M CHANGELOG\.md"):
        release.check_tag(project)


def test_a_file_that_is_missing_or_too_much(project: Path) -> None:
    other = project / "dist/release/privbind-3.1.3.tar.gz"
    other.write_text("")
    with pytest.raises(NotReadyError, match=r"another release: privbind-3\.1\.3\.tar\.gz"):
        release.artifacts(project)
    other.unlink()
    (project / "dist/debian/trixie/privbind_3.1.4-1~deb13_amd64.deb").unlink()
    with pytest.raises(NotReadyError, match="dist/debian/trixie has no "):
        release.artifacts(project)


def test_hashes_are_of_the_files(project: Path) -> None:
    """As sha256sum checks them; after a change of a file they are not."""
    subprocess.run(["sha256sum", "--quiet", "--check", release.HASHES], cwd=project / "dist", check=True)
    (project / "dist/release/privbind-3.1.4.tar.gz").write_text("changed")
    with pytest.raises(NotReadyError, match="dist/SHA256SUMS is not of these files"):
        release.check_hashes(project)


def test_the_bill_of_materials(project: Path) -> None:
    """Every file with its hash, and that nothing but Python is needed."""
    bill = json.loads((project / "dist" / release.MATERIALS).read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", "3.1.4")
    files = {part["name"]: part["hashes"][0]["content"] for part in bill["components"] if part["type"] == "file"}
    assert files == {
        str(path.relative_to(project / "dist")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in release.artifacts(project)
    }
    assert [part["name"] for part in bill["components"] if part["type"] != "file"] == ["Python"]
