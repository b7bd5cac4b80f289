#!/usr/bin/env bash
# Versions: mlflow-skinny 3.17.2, huggingface_hub 2.4.0.
# Behavior: DO_NOT_TRACK=1, the value of donottrack.sh, does not switch off mlflow's telemetry; only "true" does.
#   huggingface_hub takes either for off.
# Likely reason: is_telemetry_disabled compares DO_NOT_TRACK with "true", where MLFLOW_DISABLE_TELEMETRY takes 1 too.
# Seen:
#   DO_NOT_TRACK=1: huggingface_hub off, mlflow on
#   DO_NOT_TRACK=true: huggingface_hub off, mlflow off
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for name in $(compgen -e | grep -E "^(CI|.*_CI|.*TELEMETRY|GITHUB_.*|JENKINS_.*|BUILD_.*|PYTEST_.*|TRAVIS|CIRCLECI)$" || true); do unset "$name"; done
python3 -m venv environment
environment/bin/pip install -q mlflow-skinny==3.17.2 huggingface_hub==2.4.0
cat > show.py <<'PYTHON'
import os

from huggingface_hub import constants
from mlflow.telemetry.utils import is_telemetry_disabled

state = {True: "off", False: "on"}
print(
    f"DO_NOT_TRACK={os.environ['DO_NOT_TRACK']}: huggingface_hub {state[constants.HF_HUB_DISABLE_TELEMETRY]}, "
    f"mlflow {state[is_telemetry_disabled()]}"
)
PYTHON
for value in 1 true; do DO_NOT_TRACK=$value environment/bin/python show.py; done | tee seen
diff seen - <<'SEEN'
DO_NOT_TRACK=1: huggingface_hub off, mlflow on
DO_NOT_TRACK=true: huggingface_hub off, mlflow off
SEEN
