"""Figures are deterministic, can share a page, and take their color from it."""

import re
import xml.etree.ElementTree as ElementTree

from rlhf.evaluation.reporting.drawing import COLORS, INK, Drawing, canvas, finish, style


def drawn(name: str = "one", label: str = "a", title: str = "Title") -> Drawing:
    with canvas(3, 2) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], label=label, **style(0))
        axes.set_title(label)
        axes.legend()
        return finish(figure, name, title, "Caption.")


def test_equal_figures_are_equal_bytes() -> None:
    assert drawn() == drawn()
    assert "20" + "26" not in drawn().svg  # no date


def test_figures_share_no_id_and_references_resolve() -> None:
    one, two = drawn("one").svg, drawn("two").svg
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (one, two)]
    assert not set(ids[0]) & set(ids[1])
    for svg, known in zip((one, two), ids, strict=True):
        assert len(known) == len(set(known))
        referred = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
        assert referred
        assert set(referred) <= set(known)


def test_the_color_is_that_of_the_page_and_nothing_is_fetched() -> None:
    svg = drawn().svg
    assert "currentColor" in svg
    assert INK not in svg
    assert not re.search(r'(?:href|src)="(?!#)|@import|<image|<script|<metadata', svg)


def test_text_is_neither_markup_nor_mathematics() -> None:
    hostile = '</text><script>x</script> $x^2$ _a_ \\1 "'
    root = ElementTree.fromstring(drawn(label=hostile, title=hostile).svg)
    assert root.get("aria-label") == hostile
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count(hostile) == 2
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_a_standalone_file_has_a_light_and_a_dark_scheme() -> None:
    svg = drawn().standalone()
    ElementTree.fromstring(svg)
    assert "prefers-color-scheme:dark" in svg
    assert re.match(r'<svg [^>]*width="288" height="192"[^>]*><style>', svg)


def luminance(color: str) -> float:
    """Return the relative luminance of an sRGB color by WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colors_have_contrast_on_both_backgrounds() -> None:
    """WCAG 2.2 requires 3:1 for graphics (1.4.11)."""
    for color in COLORS:
        for paper in ("#ffffff", "#14161a"):
            darker, lighter = sorted((luminance(color), luminance(paper)))
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (color, paper)
