"""How figures look and how they become files: the same bytes from the same data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.labels import METHODS as NAMES
from experiments.tables import Figure

# Okabe and Ito (2008), distinguishable with any colour vision; markers and line styles differ too, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # one more than colours: the eighth method is not the first again
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
WIDTH, DPI = 8.6, 200  # inches; a page of Markdown shows them as wide, so that a point of type stays a point
CROWD = 5  # labels of numbers that fit side by side in a small plot; more of them are turned
LOOKS = {  # method -> colour, marker and dashes, the same in every figure; an arm has those of its method
    "lora": (COLOURS[0], "o", "-"),
    "sora": (COLOURS[1], "s", "-"),
    "adalora": (COLOURS[2], "^", "-."),
    "full": (COLOURS[3], "D", ":"),
    "adapter": (COLOURS[4], "v", (0, (5, 1))),
    "bitfit": (COLOURS[5], "P", (0, (3, 1, 1, 1))),
}
GREYS = ("#000000", "#555555", "#999999")  # of the others
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: no font of the machine changes a byte
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
}


def line(key: object) -> dict[str, Any]:
    """Colour, marker and dashes of a method or arm; SoRA-best is dashed, as SoRA-small may stand in the same figure."""
    method = key if key in NAMES else str(key).partition("_")[0]
    if method in LOOKS:
        look = LOOKS[str(method)]
    else:
        index = list(NAMES).index(str(method)) if method in NAMES else len(NAMES)
        look = GREYS[index % len(GREYS)], "X<>*"[index % 4], LINES[index % len(LINES)]
    found = dict(zip(("color", "marker", "linestyle"), look, strict=True))
    return found | {"linestyle": "--"} if key == "sora_best" else found


def tiling(count: int, columns: int = 3) -> tuple[int, int]:
    """How many panels stand side by side, at most ``columns``, and in how many rows, filled alike: 5 are 3 and 2."""
    rows = max(1, -(-count // columns))
    return max(1, -(-count // rows)), rows


def panels(canvas: Canvas, titles: Sequence[str], columns: int = 3, sharey: bool = False) -> list[Axes]:
    """One small plot per title, in rows of at most ``columns``."""
    wide, rows = tiling(len(titles), columns)
    axes = canvas.subplots(rows, wide, squeeze=False, sharey=sharey).ravel().tolist()
    for title, axis in zip(titles, axes, strict=False):
        axis.set_title(title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return list(axes[: len(titles)])


def first_of_row(axis: Axes) -> bool:
    """Whether a panel stands at the left."""
    place = axis.get_subplotspec()
    return place is None or place.is_first_col()


def log_scale(axis: Axes, values: Sequence[float] = ()) -> None:
    """A logarithmic x axis over a factor of 2 at least, labelled at ``values``.

    Without them at powers of ten, below two of which at 1 and 3, below a factor of 4 at round numbers.
    """
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    low, high = axis.get_xlim()
    if high < 2 * low:
        middle = (low * high) ** 0.5
        low, high = axis.set_xlim(middle / 2**0.5, middle * 2**0.5)
    if len(values):
        axis.set_xticks(sorted(set(values)), minor=False)
    elif high < 4 * low:
        axis.xaxis.set_major_locator(MaxNLocator(3))
    elif high < 100 * low:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    else:
        return
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if len(values) > CROWD:
        axis.tick_params(axis="x", rotation=45)


def short(value: float) -> str:
    """A number on an axis: 0.0005, 20k, 0.5M."""
    if value < 1e3:
        return f"{value:g}"
    return f"{value / 1e3:g}k" if value < 1e5 else f"{value / 1e6:g}M"


def legend_below(canvas: Canvas, columns: int = 6) -> None:
    """One legend for all panels, each name once."""
    handles: dict[str, Any] = {}
    for axis in canvas.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        room = int(canvas.get_figwidth() / (0.55 + 0.075 * max(map(len, handles))))  # inches: the marker, a letter
        wide = max(1, min(columns, len(handles), room))
        canvas.legend(handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=wide)


def curves(
    about: tuple[str, str, str], found: pd.DataFrame, x: tuple[str, str], *, ticks: bool = False
) -> Figure | None:
    """A panel for each label, a line for each method's mean score with a band of one SD; None without a row.

    Args:
        about: name, title and caption. found: label, method, mean, sd and the column of ``x``.
        x: a column, and what stands at its axis, which is logarithmic. ticks: label it at its values alone.
    """
    labels = list(found["label"].unique())
    if not labels:
        return None

    def draw(canvas: Canvas) -> None:
        for label, axis in zip(labels, panels(canvas, labels), strict=True):
            every = found[found["label"] == label].sort_values(x[0], kind="stable")
            every = every.round({x[0]: 6, "mean": 3, "sd": 3})
            for method, part in every.groupby("method", sort=False):
                style = line(method)
                axis.plot(part[x[0]], part["mean"], label=NAMES.get(str(method), method), **style)
                low, high, at = part["mean"] - part["sd"], part["mean"] + part["sd"], part[x[0]].astype(float)
                axis.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
            log_scale(axis, sorted(set(every[x[0]])) if ticks else ())
            axis.set_xlabel(x[1])
            axis.set_ylabel("score (points)")
        legend_below(canvas)

    wide, high = tiling(len(labels))
    return Figure(*about, draw, (max(4.6, WIDTH / 3 * wide), 2.2 * high + 0.6), x[0] == "live")


def heat_maps(
    about: tuple[str, str, str],
    maps: Mapping[str, pd.DataFrame],
    axes: tuple[str, str, str],
    form: str,
    limits: tuple[float, float] | None = None,
) -> Figure | None:
    """A panel for each table, a cell for each of its values, in colours from its least to its largest or of ``limits``.

    None without a value.

    Args:
        about: name, title and caption. axes: what stands at x, y and the colours. form: of a value.
    """
    maps = {title: table for title, table in maps.items() if table.notna().any(axis=None)}
    if not maps:
        return None

    def draw(canvas: Canvas) -> None:
        for axis, table in zip(panels(canvas, list(maps)), maps.values(), strict=True):
            low, high = limits or (float(np.nanmin(table)), float(np.nanmax(table)))
            image = axis.imshow(table.round(3), cmap="cividis", vmin=low, vmax=high, aspect="auto")
            axis.set_xticks(range(table.shape[1]), table.columns.map(str), rotation=45 if table.shape[1] > CROWD else 0)
            axis.set_yticks(range(len(table)), table.index.map(str))
            axis.set_xlabel(axes[0])
            axis.set_ylabel(axes[1])
            axis.grid(visible=False)
            for (row, column), value in np.ndenumerate(table):
                if not np.isnan(value):
                    ink = "white" if value < (low + high) / 2 else "black"
                    axis.text(column, row, form.format(value), ha="center", va="center", color=ink, fontsize=8)
            canvas.colorbar(image, ax=axis, label=axes[2])

    wide, high = tiling(len(maps))
    rows = max(map(len, maps.values()))
    return Figure(*about, draw, (max(4.6, WIDTH / 3 * wide), max(2.4, 0.21 * rows + 1.1) * high))


def render(figure: Figure) -> tuple[bytes, bytes]:
    """PNG and SVG. No date, no version of the renderer; ids inside the SVG are salted by the figure's name."""
    with rc_context(STYLE | {"svg.hashsalt": figure.name}):
        canvas = Canvas(figsize=figure.size, dpi=DPI, layout="constrained")
        figure.draw(canvas)
        png, svg = io.BytesIO(), io.BytesIO()
        FigureCanvasAgg(canvas).print_png(png, metadata={"Software": None})
        canvas.set_layout_engine("none")  # both files have the layout of the first, which is half the work
        FigureCanvasSVG(canvas).print_svg(svg, metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()
