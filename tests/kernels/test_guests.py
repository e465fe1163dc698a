"""Each guest is started once, and each of its tests is one here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernels
from kernels import guest, kernel, payload, root

from ..harness.guests import page
from ..harness.guests.outcome import cases, complaints, untried
from ..harness.guests.plan import BARE, WORDS, Run, wanted

_BARE_INIT = "/opt/guest/tests/kernels/inside/init.sh"
_SIGN = "guest: up"
"""What its runner says first."""

RESULTS = kernels.CACHE / "results"


@pytest.fixture(scope="session")
def payloads(wheel: Path) -> Iterator[dict[str, Path]]:
    """By architecture, what its guests are given; made when first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, arch: str) -> Path:
            self[arch] = payload.make(arch, wheel, kernels.CACHE / f"payload-{arch}")
            return self[arch]

    with kernels.hold(kernels.CACHE):
        yield Made()
        page.write(RESULTS)


@pytest.mark.parametrize("run", wanted(), ids=str)
def test_guest(run: Run, payloads: dict[str, Path], subtests: pytest.Subtests) -> None:
    """It starts, its tests pass, it powers off, and its kernel has nothing to complain of."""
    started = kernel.fetch(run.series, run.arch)
    image = root.make(run.arch, run.root)
    result = RESULTS / f"{run}.json"
    if page.TARGET:
        result.unlink(missing_ok=True)  # if there is no new one, the page is to say that
    limit_s = run.limit_s
    words = (
        f"privbind.guest={run.cell}",
        f"privbind.limit={limit_s}",
        f"privbind.patience={run.patience}",
        f"privbind.tests={';'.join([*run.tests, '-k', run.selection]).replace(' ', '+')}",
        *WORDS[run.kind],
    )
    began = time.monotonic()
    with guest.Guest(
        started,
        image,
        payload=payloads[run.arch],
        init=_BARE_INIT if run.kind in BARE else "/sbin/init",
        words=words,
    ) as machine:
        said = machine.wait(limit_s + 2 * run.start_s, sign=_SIGN, sign_s=run.start_s)
        left = machine.left()
        accelerator = machine.accelerator
    seconds = time.monotonic() - began
    assert "junit.xml" in left, f"the guest told nothing of its tests:\n{said[-6000:]}"
    found = cases(left["junit.xml"])
    log = left["kernel.log"].decode("utf-8", "replace")
    status = left["status"].decode().strip()
    for case in found:
        with subtests.test(f"{case.file}::{case.name}"):
            if case.result == "failed":
                pytest.fail(case.text, pytrace=False)
            elif case.result == "skipped":
                pytest.skip(case.text)
    with subtests.test("the kernel's log"):
        assert not complaints(log)
        assert "Linux version" in log, "the kernel has said more than its log holds"
    with subtests.test("the run as a whole"):
        failed = any(case.result == "failed" for case in found)
        assert not untried(run, found)
        assert status in ("0", "1" if failed else "0"), said[-6000:]
    if not page.TARGET:
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    facts = {
        "cell": run.cell,
        "kind": run.kind,
        "rows": run.rows,
        "release": started.release,
        "version": started.version,
        "accelerator": accelerator.partition(",")[0],
        "when": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "status": status,
        "complaints": complaints(log),
        "cases": [case._asdict() for case in found],
    }
    kernels.write(result, json.dumps(facts, indent=1))
