#!/usr/bin/env bash
# Versions: verl 0.9.1.
# Behavior: the reward for GSM8K takes the digits, commas and points after the last "#### " in the last 300 characters and
#   compares them with the ground truth as strings, without commas. A full stop after the number, decimals that are zero,
#   a currency sign before it or no space after the number signs make a right answer worth 0.
# Likely guess: numbers are compared, so that "#### 18." and "#### 18.00" equal 18. The code removes "$" from the match,
#   which cannot have one.
# Seen:
#   '#### 18' 1.0
#   '#### 1,018' 1.0
#   '#### 18.' 0.0
#   '#### 18.00' 0.0
#   '#### $18' 0
#   '####18' 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q --no-deps verl==0.9.1
# The module needs only the standard library, the package around it Ray and torch.
environment/bin/python - <<'PYTHON' | tee seen
import importlib.util
from importlib.metadata import files

[path] = [file.locate() for file in files("verl") if str(file) == "verl/utils/reward_score/gsm8k.py"]
spec = importlib.util.spec_from_file_location("gsm8k", path)
gsm8k = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gsm8k)
for text in ("#### 18", "#### 1,018", "#### 18.", "#### 18.00", "#### $18", "####18"):
    truth = "1018" if "," in text else "18"
    print(repr(text), gsm8k.compute_score(f"She earns 18 dollars a day.\n{text}", truth))
PYTHON
diff - seen <<'SEEN'
'#### 18' 1.0
'#### 1,018' 1.0
'#### 18.' 0.0
'#### 18.00' 0.0
'#### $18' 0
'####18' 0
SEEN
