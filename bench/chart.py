# SPDX-License-Identifier: Apache-2.0
"""Draw the results of bench/peers.py as one SVG: a pair of bars for each case."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

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
