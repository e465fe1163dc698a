# SPDX-License-Identifier: MIT
"""Puts the results of `make bench` (build/bench.json, or the file named) into docs/benchmarks.md, with its plots."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

WIDTH, LEFT, RIGHT, TOP, ROW = 720, 150, 90, 46, 26
OURS, PEER, BASE = "#2563a8", "#b0762c", "#6b7280"
STYLE = "text{font:13px sans-serif;fill:#1f2328}.s{font-size:11px;fill:#57606a}.g{stroke:#d0d7de}.w{stroke:#1f2328}"
PEERS = ("authbind", "setpriv, ambient")
BASE_OF = {"reserved": "root", "unreserved": "nobody", "launch": "python3 -I -S -c pass"}
BASES = (*BASE_OF.values(), "nothing")


def shown(value: float) -> str:
    """Three significant digits."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def plot(title: str, unit: str, rows: dict[str, list[float]]) -> str:
    """Horizontal bars on a logarithmic scale: the median, and a line from the 10th to the 90th percentile."""
    lowest = math.floor(math.log10(min(row[0] for row in rows.values())))
    highest = math.ceil(math.log10(max(row[2] for row in rows.values())))
    height = TOP + ROW * len(rows) + 30

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - lowest) / (highest - lowest) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="20">{escape(title)} ({unit}, logarithmic; line: 10th to 90th percentile)</text>',
    ]
    for power in range(lowest, highest + 1):
        at, bottom = x(10.0**power), height - 26
        parts.append(f'<line class="g" x1="{at:.1f}" y1="{TOP - 8}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="s" x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{10.0**power:g}</text>')
    for number, (name, (low, middle, high)) in enumerate(rows.items()):
        top = TOP + ROW * number
        colour = BASE if name in BASES else PEER if name in PEERS else OURS
        center = top + ROW / 2 - 2
        parts += [
            f'<text x="{LEFT - 8}" y="{center + 4}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{x(middle) - LEFT:.1f}" height="{ROW - 6}" fill="{colour}"/>',
            f'<line class="w" x1="{x(low):.1f}" y1="{center}" x2="{x(high):.1f}" y2="{center}"/>',
            f'<text x="{x(max(middle, high)) + 6:.1f}" y="{center + 4}">{shown(middle)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def table(results: dict[str, Any]) -> list[str]:
    """Ratios, one row a way."""
    lines = ["| | reserved bind | unreserved bind | launch |", "| --- | ---: | ---: | ---: |"]
    base = {part: results[part][name][1] for part, name in BASE_OF.items()}
    for name in results["reserved"]:
        if name in BASES:
            continue
        cells = [f"{shown(results[part][name][1] / base[part])} ×" for part in BASE_OF]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    against = [f"root's {shown(base['reserved'])} μs", f"nobody's {shown(base['unreserved'])} μs"]
    against.append(f"`{BASE_OF['launch']}`, {shown(base['launch'])} ms")
    return [*lines, f"| *against* | {' | '.join(against)} |"]


def main() -> None:
    """Write the page's measured part and the plots."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/bench.json"
    results = json.loads(source.read_text())
    host = results["machine"]
    (PAGE.parent / "bind-latency.svg").write_text(plot("A reserved bind", "μs", results["reserved"]))
    (PAGE.parent / "launch.svg").write_text(plot("From the start to the program's own", "ms", results["launch"]))
    measured = [
        f"Measured {host['date']} on {host['kernel']}, {host['processor']}, Python {host['python']}; load average at",
        f"the start {host['load']}.",
        "",
        *table(results),
        "",
        "![A reserved bind, by mechanism](bind-latency.svg)",
        "",
        "![A launch, by mechanism](launch.svg)",
        "",
        "All that `make bench` printed then:",
        "",
        *(f"    {line}" for line in results["printed"]),
    ]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before + BEGIN, *measured, END + after]))


if __name__ == "__main__":
    main()
