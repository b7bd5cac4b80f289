from collections.abc import Callable
from pathlib import Path

from PIL import Image

from rlhf.evaluation.reward_card import figures
from rlhf.evaluation.reward_card.card import Card


def test_equal_cards_result_in_equal_files(card: Callable[..., Card], tmp_path: Path) -> None:
    made = card(lambda text: 2.0 * ("good" in text))
    names = figures.draw(made, tmp_path / "one")
    assert names == figures.draw(made, tmp_path / "two")
    for name in names:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
        assert b"Date" not in one
        with Image.open(tmp_path / "one" / name) as image:
            assert image.format == "PNG"
            assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 8  # more than an empty frame


def test_constant_scores_can_be_drawn(card: Callable[..., Card], tmp_path: Path) -> None:
    assert len(figures.draw(card(lambda text: 1.0), tmp_path / "figures")) == 4


def test_the_figure_of_accuracies_has_all_parts(card: Callable[..., Card]) -> None:
    labels = [label.get_text() for label in figures.accuracies(card(len)).axes[0].get_yticklabels()]
    assert {"reward model  (24)", "longer wins  (24)", "TF-IDF  (24)", "margin", "confidence"} <= set(labels)
    assert any("$x$" in label for label in labels)  # dollar signs in names are not formulas
