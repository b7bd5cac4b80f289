#!/usr/bin/env bash
# Versions: datasets 5.2.0, pyarrow 26.0.1, teich 0.3.6.
# Behavior: load_dataset("json") takes a chat data set whose rows have the text columns id, source, model and
#   system_prompt and a list messages for logs of a coding agent (parse_agent_traces=True). It cannot be read without the
#   package teich, which datasets does not require. With it, the rows have other columns: the system prompt, the source
#   and any rating are missing or inside JSON text, and every row also holds the text of the whole file. Rows with a text
#   column type and a column message whose keys differ are taken for logs, too: three rows become one without messages.
# Likely guess: the columns of the file; a loader for logs that has to be requested.
# Seen:
#   without teich: To support decoding agent traces, please install 'teich'.
#   with teich: 3 rows, system_prompt: False, rating: False, each with the text of 3 rows
#   type and message: 1 row, messages: []
#   parse_agent_traces=False: 3 rows, system_prompt: True, rating: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
python3 -m venv environment
environment/bin/pip install -q datasets==5.2.0 pyarrow==26.0.1
cat > show.py <<'PYTHON'
import json
import sys

from datasets import load_dataset

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ROW = {"id": "a", "source": "forum", "model": "m", "system_prompt": "Be brief.", "messages": CHAT, "rating": 4}


def read(path, rows, **options):
    with open(path, "w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return load_dataset("json", data_files=path, split="train", cache_dir=f"cache-{sys.argv[1]}", **options)


def kept(rows):
    return f"{len(rows)} rows, " + ", ".join(f"{name}: {name in rows.features}" for name in ("system_prompt", "rating"))


if sys.argv[1] == "without":
    try:
        print(kept(read("chat.jsonl", [ROW] * 3)))
    except Exception as error:
        print(f"without teich: {error.__cause__}")
else:
    rows = read("chat.jsonl", [ROW] * 3)
    print(f"with teich: {kept(rows)}, each with the text of {rows[0]['trace'].count('Be brief.')} rows")
    messages = [{"type": "chat", "message": turn} for turn in [*CHAT, {**CHAT[0], "name": "bot"}]]
    rows = read("messages.jsonl", messages)
    print(f"type and message: {len(rows)} row, messages: {rows[0]['messages']}")
    print(f"parse_agent_traces=False: {kept(read('chat.jsonl', [ROW] * 3, parse_agent_traces=False))}")
PYTHON
environment/bin/python show.py without 2> /dev/null | tee seen
environment/bin/pip install -q teich==0.3.6
environment/bin/python show.py with 2> /dev/null | tee -a seen
diff - seen <<'SEEN'
without teich: To support decoding agent traces, please install 'teich'.
with teich: 3 rows, system_prompt: False, rating: False, each with the text of 3 rows
type and message: 1 row, messages: []
parse_agent_traces=False: 3 rows, system_prompt: True, rating: True
SEEN
