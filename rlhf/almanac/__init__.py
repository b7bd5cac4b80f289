"""The almanac: a small closed world of true facts, the data built from it, and its gold reward.

::

    facts (CSV) -> relations, steps, reading (kinds of questions) -> items (every prompt, and its split)
    items -> responses (good and bad) -> gold (judges any response) -> preferences (noisy labels)
    text, build: the committed files under preference_data/almanac; `python -m rlhf.almanac` rebuilds them
"""

from rlhf.almanac.gold import RANGE, Judgment, gold, judge
from rlhf.almanac.preferences import LABEL_TEMPERATURE, NoiseCeiling, noise_ceiling

__all__ = ["LABEL_TEMPERATURE", "RANGE", "Judgment", "NoiseCeiling", "gold", "judge", "noise_ceiling"]
