"""Renamed settings: runs with old names still load, resume and publish, and commands with them are corrected.

A setting is matched by its old dotted name; only the last part of a name changes.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

# Old name, as a pattern -> the last part of the new one.
NAMES = {
    r"held_out": "eval_set",
    r"hardware\.halve": "oom_retry",
    r"stage\.lam": "gae_lambda",
    r"stage\.one_base": "share_base_model",
    r"stage\.term": "reward_defaults",
    r"stage\.sentinel\.kl_most": "kl_max",
    r"stage\.sentinel\.kl_least": "kl_min",
    r"stage\.sentinel\.step_kl": "approx_kl_max",
    r"stage\.sentinel\.ended": "eos_rate_min",
    r"stage\.licence": "license",
    r"stage\.licences": "licenses",
    r"stage\.(term|reward_defaults|gold|rewards\.[^.]+)\.normalisation": "normalization",
    r"stage\.(term|reward_defaults|gold|rewards\.[^.]+)\.length\.least": "min",
    r"stage\.(term|reward_defaults|gold|rewards\.[^.]+)\.length\.most": "max",
    r"stage\.(term|reward_defaults|gold|rewards\.[^.]+)\.format\.most_words": "max_words",
}
VALUES = {"stage.critic_kind": {"own": "separate", "head": "value_head"}}


@cache
def new_name(key: str) -> str:
    """Return the current dotted name of a setting; the same if it was never renamed."""
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        old = ".".join(key.split(".")[:end])
        parts[end - 1] = next((new for name, new in NAMES.items() if re.fullmatch(name, old)), parts[end - 1])
    return ".".join(parts)


def old_name(key: str) -> str:
    """Return the former dotted name of a setting; the same if it was never renamed."""
    plain = {name.replace("\\", "") for name in NAMES if "(" not in name}
    return next((old for old in plain if new_name(old) == key), key)


def new_names(settings: Any, prefix: str = "") -> Any:
    """Return nested settings, or a mapping of dotted names, with the current names and values."""
    if not isinstance(settings, Mapping):
        return VALUES.get(prefix, {}).get(settings, settings) if isinstance(settings, str) else settings
    found = {}
    for key, value in settings.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        whole = new_name(dotted)
        found[whole[len(new_name(prefix)) + 1 :] if prefix else whole] = new_names(value, dotted)
    return found


def new_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a run.json, with those of its ancestors, under the current names in its settings and its content."""
    changed = {key: new_names(manifest[key]) for key in ("settings", "content") if key in manifest}
    if "parents" in manifest:
        changed["parents"] = {
            role: record | ({"run": new_manifest(record["run"])} if "run" in record else {})
            for role, record in manifest["parents"].items()
        }
    if "lineage" in manifest:
        changed["lineage"] = [new_manifest(one) for one in manifest["lineage"]]
    return manifest | changed
