"""The text of --help: usage, and the settings of a stage with their comments in conf/."""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.runs.commands import quoted
from rlhf.storage.paths import bundled

Values = Callable[[str], Any]  # dotted key -> value, None if it is null or missing
WIDTH = 80
ENTRY = re.compile(r"(?P<indent> *)(?P<key>[\w./-]+):(?P<value>(?:[ ](?!#).*?)?)(?:\s+#\s(?P<comment>.*))?")

USAGE = """\
Take a language model from base to instruction-tuned, one stage at a time:
base -> sft -> reward -> dpo | kto | ppo -> compare

  python -m rlhf                                  trained models, next command
  python -m rlhf stage=progression                all missing stages, in order
  python -m rlhf stage=dpo stage.beta=0.3         one stage
  python -m rlhf stage=dpo --help                 the settings of a stage
  python -m rlhf stage=dpo --cfg job              all settings, without running
  python -m rlhf -m stage=dpo stage.beta=0.1,0.3  a sweep, its leaderboard
  python -m rlhf stage=ladder                     methods over seeds, compared
  python -m rlhf stage=overoptimize               the KL at which gold peaks
  python -m rlhf stage=plan                       memory and time, before a run
  python -m rlhf stage=publish                    model card; Hub: stage.repo=
  python -m rlhf stage=watch                      a live page of all runs
  python -m rlhf stage=chat                       talk to the trained models
  python -m rlhf stage=export stage.format=gguf   for llama.cpp, Ollama
  python -m rlhf --config-dir my_conf ...         your own config groups
  python -m rlhf --version                        the version
  python -m rlhf --hydra-help                     Hydra's own options
  eval "$(rlhf -sc install=bash)"                 completion for rlhf in bash
"""
# By use: config groups, then the settings of conf/config.yaml.
GROUPS = {
    "What runs": {"stage": "", "experiment": "", "recipe": "chosen by experiment and stage"},
    "Model and data": {
        "model": "or model=org/name", "data": "or data.path=my.jsonl", "adapter": "", "chat_template": "",
    },
    "Machines": {"hardware": "", "launcher": "with -m"},
    "Measuring": {"judge": "", "tracker": "", "sweep": "with -m"},
}  # fmt: skip
SETTINGS = {
    "Where a run is": ("name", "checkpoints", "overwrite", "resume", "seed", "curves"),
    "How it is measured": ("objective", "eval_set"),
}


def help_text(overrides: Sequence[str]) -> str:
    """Return the help of the command, or, if the overrides name a stage, that stage's settings."""
    conf = bundled("conf")
    value_of = composed_values(conf, overrides) if overrides else plain_values(conf)
    stages = [item.partition("=")[2] for item in overrides if item.startswith("stage=")]
    return stage_help(conf / "stage" / f"{stages[-1]}.yaml", value_of) if stages else command_help(conf, value_of)


def composed_values(conf: Path, overrides: Sequence[str]) -> Values:
    """Return a function that looks a dotted key up in the composed settings."""
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(config_dir=str(conf), version_base="1.3"):
        composed = hydra.compose(config_name="config", overrides=list(overrides))

    def value_of(key: str) -> Any:
        value = OmegaConf.select(composed, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    return value_of


def plain_values(conf: Path) -> Values:
    """Return a function that looks up a key of conf/config.yaml without overrides: Hydra's import takes longer."""
    import yaml

    load = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    root = yaml.load((conf / "config.yaml").read_text(encoding="utf-8"), load)
    [experiment] = [one["experiment"] for one in root["defaults"] if isinstance(one, dict) and "experiment" in one]
    shared = yaml.load((conf / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"), load)

    def value_of(key: str) -> Any:
        found = [_at(values, key.split(".")) for values in (shared, root)]
        return next((value for value in found if value is not None), None)

    return value_of


def _at(values: Any, keys: list[str]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def command_help(conf: Path, value_of: Values) -> str:
    """Return the help of the command: its forms, the config groups, and the settings that all stages share."""
    parts = [USAGE]
    for use, groups in GROUPS.items():
        parts.append(f"\n{use}: group=option\n")
        for group, note in groups.items():
            parts.append(_options(conf, group, note))
    entries = dict(comments(conf / "config.yaml"))
    for use, names in SETTINGS.items():
        parts.append(f"\n{use}: key=value\n")
        chosen = {key: one for key, one in entries.items() if key.split(".")[0] in names}
        parts += [_setting(key, comment, value_of(key)) for key, comment in chosen.items()]
    return "".join(parts).rstrip()


def stage_help(path: Path, value_of: Values) -> str:
    """Return the settings of one stage with their resolved values and their comments in conf/stage/."""
    head = [line.removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in head[: head.index("defaults:")] if line]
    summary = textwrap.fill(f"stage={path.stem}: {' '.join(lines)}", WIDTH)
    entries = [(f"stage.{key}", comment) for key, comment in comments(path) if key not in ("name",)]
    return "".join([summary, "\n\n", *(_setting(key, comment, value_of(key)) for key, comment in entries)]).rstrip()


def comments(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each dotted key of a YAML file, except for ``defaults`` and Hydra's settings, with its comment."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = ENTRY.fullmatch(line)
        if entry is None:
            continue
        indent = len(entry["indent"])
        above = [(depth, key) for depth, key in above if depth < indent]
        above.append((indent, entry["key"]))
        if above[0][1] not in ("defaults", "hydra"):
            yield ".".join(key for _, key in above), entry["comment"] or ""


def _setting(key: str, comment: str, value: Any) -> str:
    help_lines = (
        textwrap.fill(comment, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6) + "\n" if comment else ""
    )
    return f"  {key}:\n{help_lines}" if isinstance(value, dict) and value else f"  {key}={_shown(value)}\n{help_lines}"


def _shown(value: Any) -> str:
    """Return a value as the user types it."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quoted(value) if isinstance(value, str) else str(getattr(value, "value", value))


def _options(conf: Path, group: str, note: str) -> str:
    names = ", ".join(sorted(path.stem for path in (conf / group).iterdir() if path.suffix in (".yaml", ".jinja")))
    listed = note if group == "recipe" else f"{names}{f' ({note})' if note else ''}"
    return textwrap.fill(f"{group}: {listed}", WIDTH, initial_indent="  ", subsequent_indent=" " * 6) + "\n"
