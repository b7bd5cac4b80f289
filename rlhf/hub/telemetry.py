"""Usage statistics that the libraries send about their users: off, unless ``telemetry=true``.

Each library has a variable; those that the user has set are left unchanged. Most are read when the library is
imported, so ``import rlhf`` sets them, and ``on`` is called before the imports of a stage.
"""

import os
import sys
from typing import Any

# Variable -> the value that disables the statistics.
OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub/constants.py: trl, transformers and trackio send through it
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets/config.py and evaluate/config.py: a request for each load
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow/environment_variables.py, since 3.2
    "WANDB_ERROR_REPORTING": "false",  # wandb/env.py: errors to Sentry
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio/analytics.py, which older releases of trackio start
    "VLLM_NO_USAGE_STATS": "1",  # vllm/envs.py
    "RAY_USAGE_STATS_ENABLED": "0",  # ray/_common/usage/usage_constants.py
}
OURS = "RLHF_TELEMETRY_OFF"  # names the variables that were set here, also for child processes


def off() -> None:
    """Disable the statistics that the user has not configured."""
    missing = [name for name in OFF if name not in os.environ]
    os.environ.update({name: OFF[name] for name in missing})
    os.environ[OURS] = ",".join([*_ours(), *missing])
    hub: Any = sys.modules.get("huggingface_hub.constants")  # if imported, it reads its constant at each request
    if hub is not None and "HF_HUB_DISABLE_TELEMETRY" in missing:
        hub.HF_HUB_DISABLE_TELEMETRY = True


def on() -> None:
    """Unset the variables that ``off`` set, here or in the parent process, for later imports."""
    for name in _ours():
        del os.environ[name]
    os.environ.pop(OURS, None)


def _ours() -> list[str]:
    return [name for name in os.environ.get(OURS, "").split(",") if name in os.environ]
