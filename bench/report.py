# SPDX-License-Identifier: Apache-2.0
"""Show the results of bench/peers.py to people: tables for the pages, and a chart.

python bench/report.py      renews README.md and docs/ from bench/results.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results.json"

_WIDTH, _LEFT, _ROW = 820, 250, 40
_OURS, _THEIRS = "#2563eb", "#9ca3af"


def write_chart(results: list[dict[str, Any]], path: Path) -> None:
    """One row a case: the fastest peer's best time as a full bar, ours beside it to scale."""
    shown = [result for result in results if result["unit"] == "ratio"]
    height = 60 + _ROW * len(shown)
    full = _WIDTH - _LEFT - 130
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="12" y="24" font-size="15" font-weight="bold">Best time of each; shorter is better</text>',
        f'<rect x="{_LEFT}" y="34" width="11" height="11" fill="{_OURS}"/>'
        f'<text x="{_LEFT + 16}" y="44">diskcopy</text>',
        f'<rect x="{_LEFT + 90}" y="34" width="11" height="11" fill="{_THEIRS}"/>'
        f'<text x="{_LEFT + 106}" y="44">the fastest peer</text>',
    ]
    for number, result in enumerate(shown):
        top = 56 + number * _ROW
        ours = result["rows"][0]
        rival = next(row for row in result["rows"] if row["command"] == result["rival"])
        scale = full / max(ours["best"], rival["best"])
        lines.append(f'<text x="12" y="{top + 19}">{escape(result["case"])}</text>')
        for row, offset, colour in ((ours, 0, _OURS), (rival, 15, _THEIRS)):
            width = row["best"] * scale
            name = row["command"].split()[0] if row is rival else f"{result['value']:.2f} of it"
            lines.append(
                f'<rect x="{_LEFT}" y="{top + offset}" width="{width:.1f}" height="13" fill="{colour}"/>'
                f'<text x="{_LEFT + width + 6:.1f}" y="{top + offset + 11}" font-size="11">'
                f"{row['best']:.2f} s, {escape(name)}</text>"
            )
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")


def short_table(results: list[dict[str, Any]]) -> str:
    """A row a case: bests, and who the rival was."""
    lines = ["| case | diskcopy | fastest peer | ratio |", "| --- | ---: | ---: | ---: |"]
    for result in results:
        ours = result["rows"][0]
        rival = next(row for row in result["rows"] if row["command"] == result["rival"])
        name = (
            " ".join(rival["command"].split()[:2])
            if rival["command"].startswith("qemu")
            else rival["command"].split()[0]
        )
        value = f"{result['value']:.2f}" if result["unit"] == "ratio" else f"{result['value']:+.2f} s"
        lines.append(f"| {result['case']} | {ours['best']:.2f} s | {rival['best']:.2f} s, {name} | {value} |")
    return "\n".join(lines)


def long_table(machine: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Everything: each command's best, median and peak memory, and what was to be reached."""
    facts = [
        f"{name}: {', '.join(value) if isinstance(value, list) else value}" for name, value in machine.items()
    ]
    lines = [*(f"- {fact}" for fact in facts), ""]
    for result in results:
        limit = f"{result['limit']:.2f}" + (" s" if result["unit"] != "ratio" else "")
        verdict = "reached" if result["reached"] and not result["problem"] else "**missed**"
        value = f"{result['value']:.2f}" + (" s more" if result["unit"] != "ratio" else "")
        title = result["case"] + (f" ({result['note']})" if result["note"] else "")
        lines += [
            f"### {title}",
            "",
            f"{value} by bests, {result['median']:.2f} times by medians; to reach {limit}: {verdict}."
            + (f" {result['problem']}." if result["problem"] else ""),
            "",
            "| command | best | median | peak memory |",
            "| --- | ---: | ---: | ---: |",
        ]
        for row in result["rows"]:
            memory = f"{row['memory'] / (1 << 20):.0f} MiB" if row["memory"] else ""
            lines.append(f"| `{row['command']}` | {row['best']:.3f} s | {row['median']:.3f} s | {memory} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def replace_table(page: Path, table: str) -> None:
    """Put a table where the page says so."""
    begin, end = "<!-- table: bench/report.py fills this in -->", "<!-- end of table -->"
    text, count = re.subn(
        f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", page.read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{page} has no place for the table")
    page.write_text(text)


def main() -> None:
    found = json.loads(RESULTS.read_text())
    replace_table(ROOT / "README.md", short_table(found["results"]))
    replace_table(ROOT / "docs/benchmarks.md", long_table(found["machine"], found["results"]))
    write_chart(found["results"], ROOT / "docs/benchmarks.svg")


if __name__ == "__main__":
    main()
