"""Deterministic figures in one style: SVG for light and dark backgrounds, or PNG on white."""

import html
import io
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

INK = "#010203"
"""Placeholder color of text and axes, replaced by the color of the text around the figure."""
# Contrast of at least 3:1 against white and against #14161a.
COLORS = ("#6b7280", "#2f81f7", "#c2690c", "#d6336c", "#1a9c5b", "#8b5cf6", "#0e8fa3", "#a8710a")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and readable by screen readers
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a title with two dollar signs is not a formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}
STANDALONE = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"


class Drawing(NamedTuple):
    """A figure with its caption. ``svg`` takes its color from the text around it; ``width`` is in inches."""

    name: str
    title: str
    caption: str
    svg: str
    width: float

    def standalone(self) -> str:
        """Return the SVG as a separate file that follows the viewer's light or dark scheme."""
        return self.svg.replace(">", f">{STANDALONE}", 1) + "\n"


@contextmanager
def canvas(width: float, height: float) -> Generator[Figure]:
    """Yield an empty figure of ``width`` × ``height`` inches in `STYLE`, without pyplot's global state."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        yield figure


def finish(figure: Figure, name: str, title: str, caption: str) -> Drawing:
    """Return the figure as SVG. Equal figures result in equal bytes; ids start with ``name``, unique on a page."""
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].strip().replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    box = re.findall(r'viewBox="[^"]+"', text)[0]
    width, height = figure.get_size_inches()
    size = f'width="{96 * width:.0f}" height="{96 * height:.0f}"'  # CSS pixels
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = f'<svg {names} {box} {size} role="img" aria-label="{html.escape(title)}">'
    return Drawing(name, title, caption, re.sub(r"<svg[^>]*>", lambda _: head, text, count=1), float(width))


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG on white, for pages that show no SVG. Equal figures result in equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.patch.set_alpha(1)
    figure.savefig(path, dpi=120, facecolor="white", metadata={"Software": None})


def style(index: int) -> dict[str, Any]:
    """Return color and dashes of the column with this index, distinguishable without color, too."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index % len(DASHES)]}


def point(index: int) -> dict[str, Any]:
    """Return color and marker of the points of the column with this index."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "linestyle": "none"}
