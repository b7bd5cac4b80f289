#!/usr/bin/env bash
# Versions: datasets 5.2.0, pyarrow 26.0.1, pandas 3.1.1.
# Behavior: conversations of which one message has an additional key (name, tool_calls) are read from JSONL with the
#   feature List(Json), and to_parquet writes list<extension<arrow.json>>. pyarrow and pandas return each message of that
#   file as JSON text instead of a mapping, without a warning. If all messages have the same keys, they are mappings.
# Likely guess: a struct with a null for the missing key, as earlier releases of datasets made it.
# Seen:
#   same keys: <class 'dict'>
#   one key more: <class 'str'>
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
python3 -m venv environment
environment/bin/pip install -q datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1
cat > show.py <<'PYTHON'
import json

import pandas
from datasets import load_dataset

for name, extra in (("same keys", {}), ("one key more", {"name": "bot"})):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", **extra}]}
    file = name.replace(" ", "_")
    with open(f"{file}.jsonl", "w") as lines:
        lines.write((json.dumps(row) + "\n") * 3)
    rows = load_dataset("json", data_files=f"{file}.jsonl", split="train", cache_dir="cache")
    rows.to_parquet(f"{file}.parquet")
    print(f"{name}: {type(pandas.read_parquet(f'{file}.parquet').messages[0][0])}")
PYTHON
environment/bin/python show.py 2> /dev/null | tee seen
diff - seen <<'SEEN'
same keys: <class 'dict'>
one key more: <class 'str'>
SEEN
