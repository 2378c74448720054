"""Draws the figures of `scripts/bench stores`: `plot.py STORES.CSV OUT.SVG`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

LIMIT = 1.15
"""What a store may cost over the bare calls."""


def label(row: dict[str, str]) -> str:
    """One line for a bar."""
    size = {'1000': '1 KB', '10000': '1,000 × 10 KB', '100000000': '100 MB'}[row['bytes']]
    return f'{row["store"]}, {size}'


def main() -> None:
    """Two panels: over the bare calls, and beside Python."""
    source, target = sys.argv[1:]
    with Path(source).open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    single = [row for row in rows if row['operation'] == 'put + get'][::-1]
    python = [row for row in rows if row['python_seconds']][::-1]

    # The same figures give the same file.
    mpl.rcParams['svg.hashsalt'] = 'proxystore'
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    left.barh([label(row) for row in single], [float(row['ratio']) for row in single], color='#4878a8')
    left.axvline(1, color='black', linewidth=0.8)
    left.axvline(LIMIT, color='#b04040', linewidth=0.8, linestyle='--')
    left.set_title('put + get: time over the bare calls (dashed: 1.15)', fontsize=9)
    speedups = [float(row['python_seconds']) / float(row['rust_seconds']) for row in python]
    bars = right.barh([label(row) for row in python], speedups, color='#5a9a68')
    right.bar_label(bars, fmt='%.1f×', fontsize=8, padding=2)
    right.axvline(1, color='black', linewidth=0.8)
    right.set_xscale('log')
    right.set_xlim(0.9, 2 * max(speedups))
    right.set_title("put + get: Python's time over ours (logarithmic)", fontsize=9)
    for axis in (left, right):
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(target, metadata={'Date': None})


if __name__ == '__main__':
    main()
