#!/usr/bin/env bash
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Behavior: load_dataset("json") turns JSON strings that look like dates into timestamps, chunk by chunk (10 MiB of a
#   file). If every answer in a file is such a string, the column is timestamp[s], and a reward function that compares
#   it with text gets datetime objects. If the first chunk has other text, too, the column is a string, but a later
#   chunk with dates only is parsed as timestamps and written back in another form: some rows of a file keep
#   "2019-07-14", others have "2019-07-14 00:00:00", even with features=Features(answer=Value("string")). There is no
#   warning. Dataset.from_list keeps the strings.
# Likely guess: a JSON string stays this string, since JSON has a type for text.
# Seen:
#   dates only: timestamp[s] ['2019-07-14 00:00:00']
#   text, then dates: string ['2019-07-14', '2019-07-14 00:00:00', 'in spring']
#   declared as string: string ['2019-07-14 00:00:00']
#   from a list: string ['2019-07-14']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
python3 -m venv environment
environment/bin/pip install -q datasets==5.2.0 pyarrow==26.0.1
cat > show.py <<'PYTHON'
import json

from datasets import Dataset, Features, Value, load_dataset

DECLARED = Features(prompt=Value("string"), answer=Value("string"))


def show(name, rows):
    print(f"{name}: {rows.features['answer'].dtype} {sorted({str(answer) for answer in rows['answer']})}")


def read(path, answers, **options):
    with open(path, "w") as lines:
        for answer in answers:
            lines.write(json.dumps({"prompt": "When was it? " + "Think first. " * 40, "answer": answer}) + "\n")
    return load_dataset("json", data_files=path, split="train", cache_dir="cache", **options)


show("dates only", read("dates.jsonl", ["2019-07-14"] * 100))
show("text, then dates", read("mixed.jsonl", ["in spring"] * 10_000 + ["2019-07-14"] * 40_000))
show("declared as string", read("declared.jsonl", ["2019-07-14"] * 100, features=DECLARED))
show("from a list", Dataset.from_list([{"answer": "2019-07-14"}] * 100))
PYTHON
environment/bin/python show.py 2> /dev/null | tee seen
diff - seen <<'SEEN'
dates only: timestamp[s] ['2019-07-14 00:00:00']
text, then dates: string ['2019-07-14', '2019-07-14 00:00:00', 'in spring']
declared as string: string ['2019-07-14 00:00:00']
from a list: string ['2019-07-14']
SEEN
