#!/usr/bin/env bash
# Versions: datasets 5.2.0, dill 0.4.1.
# Behavior: Dataset.map takes its result from the cache although the function has changed, if the function is in an
#   imported file, or is in the script and calls one that is. Functions of imported files enter the fingerprint by name
#   only; only those of __main__ and of notebooks enter with their code. A second run of a script after an edit in
#   prepare.py therefore trains on the rows of the first. There is no message.
# Likely guess: the fingerprint covers the code of the function, so an edit gives new rows, as it does in the script.
# Seen:
#   before: imported [2], called [2], in the script [2]
#   after: imported [2], called [2], in the script [101]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
python3 -m venv environment
environment/bin/pip install -q datasets==5.2.0 dill==0.4.1
echo '{"x": 1}' > rows.jsonl
cat > prepare.py <<'PYTHON'
def more(x):
    return x + 1


def change(row):
    return {"y": more(row["x"])}
PYTHON
cat > show.py <<'PYTHON'
import sys

import prepare
from datasets import load_dataset


def more(x):
    return x + 1


def calls(row):
    return {"y": prepare.more(row["x"])}


def own(row):
    return {"y": more(row["x"])}


rows = load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")
found = [rows.map(function)["y"][:] for function in (prepare.change, calls, own)]
print("{}: imported {}, called {}, in the script {}".format(sys.argv[1], *found))
PYTHON
environment/bin/python show.py before 2> /dev/null | tee seen
sed -i 's/x + 1/x + 100/' prepare.py show.py
environment/bin/python show.py after 2> /dev/null | tee -a seen
diff - seen <<'SEEN'
before: imported [2], called [2], in the script [2]
after: imported [2], called [2], in the script [101]
SEEN
