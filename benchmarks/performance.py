"""`python -m benchmarks.performance FILE`: the tables and plots of docs/performance.md, from a file of measurements.

What is between the two marks of the page is replaced, all else is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PEER = "GradientTape"
TITLES = {
    "build": "Build",
    "optimized_nodes": "Nodes after Grappler",
    "first_call": "First call",
    "step": "Step",
    "step_cpu": "Step, CPU",
    "memory": "Peak memory",
}


def ratios(path: str, measure: str) -> dict[str, float]:
    """By workload, what the tape takes over what tf_symgrad takes."""
    cells = {(cell.workload, cell.method): cell.values for cell in report.read(path)[1]}
    found = {}
    for (workload, method), values in cells.items():
        peer = cells.get((workload, PEER), {})
        if method == report.OURS and values.get(measure) and measure in peer:
            found[workload] = peer[measure] / values[measure]
    return found


def page(path: str) -> str:
    """What is measured, as Markdown."""
    about, cells = report.read(path)
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    columns = {title: ratios(path, measure) for measure, title in TITLES.items()}
    columns = {title: found for title, found in columns.items() if found}
    workloads = list(dict.fromkeys(cell.workload for cell in cells if cell.method == report.OURS))
    lines = [
        f"`{' '.join(about['command'])}`, on {about['cores']} cores of {about['cpu']}, at a load of "
        f"{about['load']:.1f}, with Python {about['python']}, {versions}:",
        "",
        f"| {PEER} over tf_symgrad | {' | '.join(columns)} |",
        "|---|" + "---:|" * len(columns),
    ]
    for workload in workloads:
        entries = [f"{found[workload]:.2f}" if workload in found else "" for found in columns.values()]
        lines.append(f"| {workload} | {' | '.join(entries)} |")
    ours = {cell.workload: cell for cell in cells if cell.method == report.OURS}
    lines += [
        "",
        "| tf_symgrad | µs a node, engine | Nodes | Build | Step | Spread of the step |",
        "|---|" + "---:|" * 5,
    ]
    for workload, cell in ours.items():
        v = cell.values
        engine = f"{1e6 * v['native_build'] / v['native_nodes']:.1f}" if v.get("native_nodes") else ""
        times = [f"{1e3 * v[key]:.2f} ms" if key in v else "" for key in ("build", "step")]
        spread = f"{100 * cell.spread['step']:.0f} %" if "step" in cell.spread else ""
        lines.append(f"| {workload} | {engine} | {v.get('nodes', 0):,.0f} | {' | '.join(times)} | {spread} |")
    # TensorFlow's errors name nodes in brackets, which mean something else on a page.
    reasons = [(cell, cell.reason.partition("[[")[0].strip(" \t:{")) for cell in cells if cell.reason]
    gaps = [f"- {cell.workload}, {cell.method}: {reason}" for cell, reason in reasons]
    return "\n".join([*lines, "", *gaps])


def plot(path: str, measure: str) -> str:
    """Bars, as SVG: as long as the tape's time over ours, on a scale of logarithms; the line is at 1."""
    import math

    found = ratios(path, measure)
    height, left, scale = 18 * len(found) + 24, 150, 110
    low = min([-0.3, *(math.log10(r) for r in found.values())])
    zero = left - low * scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" '
        'font-size="11">'
    ]
    for i, (workload, ratio) in enumerate(found.items()):
        y, end = 18 * i + 20, zero + math.log10(ratio) * scale
        colour = "#2a7" if ratio >= 1 else "#c52"
        parts.append(f'<text x="{left - 8}" y="{y + 10}" text-anchor="end" fill="#888">{workload}</text>')
        parts.append(
            f'<rect x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="13" fill="{colour}"/>'
        )
        parts.append(f'<text x="{max(zero, end) + 4:.1f}" y="{y + 10}" fill="#888">{ratio:.2f}</text>')
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="16" y2="{height}" stroke="#888"/>')
    parts.append(
        f'<text x="{zero:.1f}" y="11" text-anchor="middle" fill="#888">{TITLES[measure]}: {PEER} over tf_symgrad</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__.partition(": ")[2])
    parser.add_argument("file", help="what python -m benchmarks --json has written")
    options = parser.parse_args(arguments)
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    images = []
    for measure in ("build", "first_call", "step"):
        if ratios(options.file, measure):
            image = PAGE.with_name(f"performance-{measure}.svg")
            image.write_text(plot(options.file, measure))
            images.append(f"![{TITLES[measure]}: {PEER} over tf_symgrad]({image.name})")
    PAGE.write_text("\n\n".join([f"{before}{BEGIN}", page(options.file), "\n\n".join(images), f"{END}{after}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
