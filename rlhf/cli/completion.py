"""Completion of groups, their options, and settings in a shell: the names of the files of conf/ and their keys.

Hydra completes the rest: its own settings, values, paths, additions (+), and what the user's --config-dir holds.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from rlhf.cli.help import comments
from rlhf.storage.paths import bundled

TYPED = ("model", "data", "adapter", "hardware", "tracker", "judge")  # groups whose files all have the same keys
FLAGS = ("-m", "--multirun")
HYDRA = ("hydra", "hydra.")
WORD = re.compile(r"[A-Za-z]\w*(\.\w+)*\.?|[A-Za-z]\w*=\w[\w.-]*|[A-Za-z]\w*=|")


def offers(line: str) -> list[str] | None:
    """Return the words that can replace the last one of a command line; None if Hydra completes it."""
    program, *words = line.split() or [""]
    if "python" in program:
        return None
    word = words.pop() if words and not line[-1].isspace() else ""
    options = [one for one in words if one.startswith("-")]
    if not WORD.fullmatch(word) or word.startswith("hydra") or not set(options) <= set(FLAGS):
        return None
    conf = bundled("conf")
    group, equals, _ = word.partition("=")
    if equals:
        listed = [f"{group}={option}" for option in options_of(conf, group)]
        return [one for one in listed if one.startswith(word)] if listed else None
    chosen = [one.partition("=")[2] for one in words if one.startswith("stage=")]
    known = [f"{path.name}=" for path in conf.iterdir() if options_of(conf, path.name)]
    known += [*HYDRA, *below(word, list(keys(conf, (chosen or ["status"])[-1])))]
    return sorted({one for one in known if one.startswith(word)})


def options_of(conf: Path, group: str) -> list[str]:
    """Return the sorted options of a group; an unknown group has none."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def below(word: str, known: list[str]) -> Iterator[str]:
    """Yield the settings one level below the last dot of ``word``: with a dot if they hold settings, else with =."""
    base = word[: word.rfind(".") + 1]
    for key in known:
        if key.startswith(base):
            name, dot, _ = key.removeprefix(base).partition(".")
            inner = dot or any(other.startswith(f"{key}.") for other in known)
            yield f"{base}{name}{'.' if inner else '='}"


def keys(conf: Path, stage: str) -> Iterator[str]:
    """Yield the dotted keys of the settings of a stage."""
    for key, _ in comments(conf / "config.yaml"):
        yield key
    for path in [*(one for group in TYPED for one in (conf / group).glob("*.yaml")), conf / "stage" / f"{stage}.yaml"]:
        if path.exists():
            yield from (f"{path.parent.name}.{key}" for key, _ in comments(path))
