"""Usage statistics that the libraries send about whoever uses them: off, unless ``telemetry=true``.

Each library has a variable, and one that the user has set is left as it is. Most are read when the library is
imported, so ``import rlhf`` sets them, and ``on`` comes before the imports of a stage.
"""

import os
import sys

# The variable, and the value that switches off.
OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub/constants.py: trl, transformers and trackio send through it
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets/config.py and evaluate/config.py: a request for each load
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow/environment_variables.py, since 3.2
    "WANDB_ERROR_REPORTING": "false",  # wandb/env.py: errors to Sentry
    "GRADIO_ANALYTICS_ENABLED": "False",  # gradio/analytics.py, which older releases of trackio start
    "VLLM_NO_USAGE_STATS": "1",  # vllm/envs.py
    "RAY_USAGE_STATS_ENABLED": "0",  # ray/_common/usage/usage_constants.py
}
OURS = "RLHF_TELEMETRY_OFF"  # names those that were set here, also to the processes that this one starts


def off() -> None:
    """Switch off what the user has not set."""
    missing = [name for name in OFF if name not in os.environ]
    os.environ.update({name: OFF[name] for name in missing})
    os.environ[OURS] = ",".join([*_ours(), *missing])
    hub = sys.modules.get("huggingface_hub.constants")  # read already; at each request it looks at its constant
    if hub is not None and "HF_HUB_DISABLE_TELEMETRY" in missing:
        hub.HF_HUB_DISABLE_TELEMETRY = True


def on() -> None:
    """Take back the variables that ``off`` set, here or in the process that started this one, for later imports."""
    for name in _ours():
        del os.environ[name]
    os.environ.pop(OURS, None)


def _ours() -> list[str]:
    return [name for name in os.environ.get(OURS, "").split(",") if name in os.environ]
