"""Draws the figures of `scripts/bench wan`: `plot_wan.py WAN.CSV OUT.SVG`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

# Their lines are dashed: a whole command with its start, not a request to what already runs.
COMMANDS = ('ours command', 'ours dialing', 'sendme')


def label(row: dict[str, str]) -> str:
    """What a panel shows."""
    loss = float(row['loss']) * 100
    return f'{row["megabits"]} Mbit/s, {row["round_trip_ms"]} ms, {loss:g} % loss'


def main() -> None:
    """A panel for each wire: share of the link by size, a line for each contestant."""
    source, target = sys.argv[1:]
    with Path(source).open(encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    # The same figures give the same file.
    mpl.rcParams['svg.hashsalt'] = 'proxystore'
    wires = list(dict.fromkeys(label(row) for row in rows))
    names = list(dict.fromkeys(row['contestant'] for row in rows))
    height = -(-len(wires) // 2)
    figure, axes = plt.subplots(height, 2, figsize=(10, 3 * height), squeeze=False, constrained_layout=True)
    for wire, axis in zip(wires, axes.flat, strict=False):
        for name in names:
            points = [row for row in rows if label(row) == wire and row['contestant'] == name]
            sizes = [int(row['bytes']) for row in points]
            shares = [100 * float(row['link_share']) for row in points]
            style = '--' if name in COMMANDS else '-'
            axis.plot(sizes, shares, style, marker='o', markersize=3, label=name)
        axis.set_xscale('log')
        axis.set_yscale('log')
        axis.set_title(wire, fontsize=9)
        axis.set_ylabel('% of the link', fontsize=8)
        axis.set_xlabel('bytes', fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    for axis in axes.flat[len(wires) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(target, metadata={'Date': None})


if __name__ == '__main__':
    main()
