#!/usr/bin/env bash
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0.
# Behavior: parse with its default settings reads a plain number with an exponent up to the e, and of a mixed number the
#   numerator: 1e3 and 1e-05 are 1, 3 2/5 is 2. verify then calls wrong answers right (1e-05 for 1, 3 2/5 for 2) and right
#   ones wrong (1e3 for 1000, 3 2/5 for 3.4), also if the reference has an exponent. Python writes small and large floats
#   this way, so references made by str(value) are affected. In LaTeX both are read as numbers.
# Likely guess: at least the numbers that float() reads are read.
# Seen:
#   right 1000, answer 1e3: False, read as 1
#   right 1, answer 1e-05: True, read as 1
#   right 1e-05, answer 1e6: True, read as 1
#   right 3.4, answer 3 2/5: False, read as 2
#   right 2, answer 3 2/5: True, read as 2
#   right 1000, answer $1 \times 10^{3}$: True, read as 1*10**3
#   right 3.4, answer $3\frac{2}{5}$: True, read as 17/5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
environment/bin/python - <<'PYTHON' | tee seen
from math_verify import parse, verify

PAIRS = (
    ("1000", "1e3"), ("1", "1e-05"), (str(0.00001), "1e6"), ("3.4", "3 2/5"), ("2", "3 2/5"),
    ("1000", "$1 \\times 10^{3}$"), ("3.4", "$3\\frac{2}{5}$"),
)  # fmt: skip
for right, answer in PAIRS:
    verdict = verify(parse(right), parse(answer))
    print(f"right {right}, answer {answer}: {verdict}, read as {parse(answer)[0]}")
PYTHON
diff - seen <<'SEEN'
right 1000, answer 1e3: False, read as 1
right 1, answer 1e-05: True, read as 1
right 1e-05, answer 1e6: True, read as 1
right 3.4, answer 3 2/5: False, read as 2
right 2, answer 3 2/5: True, read as 2
right 1000, answer $1 \times 10^{3}$: True, read as 1*10**3
right 3.4, answer $3\frac{2}{5}$: True, read as 17/5
SEEN
