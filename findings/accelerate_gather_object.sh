#!/usr/bin/env bash
# Versions: accelerate 1.15.0, torch 2.13.0 (gloo).
# Behavior: gather_object returns its argument as it is in one process. In several it iterates over what every process
#   gave and joins the items: of a dictionary only its keys arrive, of a text its characters, a number raises a
#   TypeError. A script that gathers metrics as a dictionary works in one process and loses the values in two, without a
#   message. Within a list, everything arrives.
# Likely guess: a list with the object of each process, as torch.distributed.all_gather_object has; the docstring names a
#   "nested list/tuple/dictionary of objects".
# Seen:
#   1 process: dict {'reward': 0.5} -> {'reward': 0.5}, text 'ab' -> 'ab', list [{'reward': 0.5}] -> [{'reward': 0.5}]
#   2 processes: dict {'reward': 0.5} -> ['reward', 'reward'], text 'ab' -> ['a', 'b', 'a', 'b'], list [{'reward': 0.5}] -> [{'reward': 0.5}, {'reward': 0.5}]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export OMP_NUM_THREADS=1
python3 -m venv environment
environment/bin/pip install -q accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cat > gather.py <<'PYTHON'
from accelerate import Accelerator
from accelerate.utils import gather_object

accelerator = Accelerator(cpu=True)
values = {"dict": {"reward": 0.5}, "text": "ab", "list": [{"reward": 0.5}]}
found = [f"{name} {value!r} -> {gather_object(value)!r}" for name, value in values.items()]
if accelerator.is_main_process:
    count = accelerator.num_processes
    print(f"{count} process{'es' if count > 1 else ''}: " + ", ".join(found))
PYTHON
environment/bin/python gather.py 2> /dev/null | tee seen
environment/bin/torchrun --nproc_per_node 2 gather.py 2> /dev/null | tee -a seen
diff - seen <<'SEEN'
1 process: dict {'reward': 0.5} -> {'reward': 0.5}, text 'ab' -> 'ab', list [{'reward': 0.5}] -> [{'reward': 0.5}]
2 processes: dict {'reward': 0.5} -> ['reward', 'reward'], text 'ab' -> ['a', 'b', 'a', 'b'], list [{'reward': 0.5}] -> [{'reward': 0.5}, {'reward': 0.5}]
SEEN
