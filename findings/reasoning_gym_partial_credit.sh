#!/usr/bin/env bash
# Versions: reasoning-gym 0.1.25.
# Behavior: score_answer of tasks that do not define their own (33 of 106, such as gcd, lcm and letter_counting) gives an
#   answer that contains the right one as a part of its text the reward length of the right answer / length of the
#   answer. A wrong number gets half or more if the right digits are in it (140 for 14: .67), which is more than the
#   right number gets in a sentence, or with a decimal (14.0). A mean reward of .76 can be an accuracy of 0.
# Likely guess: 1 for the right number in any of these forms, 0 for another number.
# Likely reason: ProceduralDataset.score_answer tests for a substring, to give credit to answers within more text.
# Seen (mean reward over 50 problems with right answers n):
#   gcd: n 1.00, n0 0.52, 1n 0.52, n.0 0.35, The answer is n 0.07
#   lcm: n 1.00, n0 0.76, 1n 0.76, n.0 0.61, The answer is n 0.19
#   bitwise_arithmetic: n 1.00, n0 0.00, 1n 0.00, n.0 0.00, The answer is n 0.00
#   without an own score_answer: 33 of 106
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q reasoning-gym==0.1.25
environment/bin/python - <<'PYTHON' | tee seen
import reasoning_gym
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

FORMS = ("n", "n0", "1n", "n.0", "The answer is n")
for name in ("gcd", "lcm", "bitwise_arithmetic"):
    rows = reasoning_gym.create_dataset(name, size=50, seed=0)
    means = []
    for form in FORMS:
        start, _, end = form.rpartition("n")
        scores = [rows.score_answer(start + row["answer"] + end, row) for row in rows]
        means.append(f"{form} {sum(scores) / len(scores):.2f}")
    print(f"{name}: {', '.join(means)}")
default = [name for name, (kind, _) in DATASETS.items() if kind.score_answer is ProceduralDataset.score_answer]
print(f"without an own score_answer: {len(default)} of {len(DATASETS)}")
PYTHON
diff - seen <<'SEEN'
gcd: n 1.00, n0 0.52, 1n 0.52, n.0 0.35, The answer is n 0.07
lcm: n 1.00, n0 0.76, 1n 0.76, n.0 0.61, The answer is n 0.19
bitwise_arithmetic: n 1.00, n0 0.00, 1n 0.00, n.0 0.00, The answer is n 0.00
without an own score_answer: 33 of 106
SEEN
