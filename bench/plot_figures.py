"""Draws the figures of `scripts/bench loopback`, `rates` or `relay`: `plot_figures.py FIGURES.CSV OUT.SVG`.

What was done at several sizes is drawn over the size, what was done with several numbers of connections over those, and
what was done once as bars.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Rows = list[dict[str, str]]


def size(row: dict[str, str]) -> str:
    """Bytes for people."""
    count = int(row['bytes'])
    for unit, factor in (('GB', 10**9), ('MB', 10**6), ('KB', 10**3)):
        if count >= factor:
            return f'{count // factor} {unit}'
    return f'{count} B'


def variable(rows: Rows) -> str | None:
    """What the horizontal axis shows."""
    for name in ('connections', 'bytes'):
        if len({row[name] for row in rows}) > 1:
            return name
    return None


def panels(rows: Rows) -> list[tuple[str, Rows]]:
    """Rows that belong into one panel, and its title."""
    found: dict[str, Rows] = {}
    for row in rows:
        same = [other for other in rows if other['what'] == row['what']]
        title = f'{row["what"]}, {size(row)}' if variable(same) != 'bytes' else row['what']
        found.setdefault(title, []).append(row)
    return list(found.items())


def draw(axis: Axes, rows: Rows) -> None:
    """Lines where something varies, else bars."""
    names = list(dict.fromkeys(row['contestant'] for row in rows))
    over = variable(rows)
    if over is None:
        bars = axis.bar(names, [float(row['value']) for row in rows], color='#4878a8')
        axis.bar_label(bars, fmt='%.3g', fontsize=8)
    else:
        for name in names:
            own = [row for row in rows if row['contestant'] == name]
            xs, ys = [int(row[over]) for row in own], [float(row['value']) for row in own]
            axis.plot(xs, ys, marker='o', markersize=3, label=name)
        axis.set_xscale('log')
        axis.set_yscale('log')
        axis.set_xlabel(over, fontsize=8)
        axis.legend(fontsize=7)
    axis.set_ylabel(rows[0]['unit'], fontsize=8)


def main() -> None:
    """A panel for each thing that was done."""
    source, target = sys.argv[1:]
    with Path(source).open(encoding='utf-8') as file:
        found = panels(list(csv.DictReader(file)))
    # The same figures give the same file.
    mpl.rcParams['svg.hashsalt'] = 'proxystore'
    height = -(-len(found) // 2)
    figure, axes = plt.subplots(height, 2, figsize=(10, 3 * height), squeeze=False, constrained_layout=True)
    for (title, rows), axis in zip(found, axes.flat, strict=False):
        draw(axis, rows)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[['top', 'right']].set_visible(False)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    figure.savefig(target, metadata={'Date': None})


if __name__ == '__main__':
    main()
