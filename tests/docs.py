"""README.md and docs/*.md as the tests read them: sections, fenced blocks, commands."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from tests.conftest import FAST, TINY

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
STAGES = ("base", "sft", "reward", "dpo", "ppo", "compare")


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """Return the text under a heading of the second level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def columns(text: str) -> set[str]:
    """Return the names in backticks in the first column of the tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language; ``""`` is a fence without one."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [block for name, block in fences if name == language]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every `-m rlhf` in a bash block, whatever starts it."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [part[part.index("rlhf") + 1 :] for part in parts if part[:1] != ["pip"] and "rlhf" in part]


def scripts(text: str) -> list[str]:
    """Return the names of the benchmarks that bash blocks and prose run."""
    return re.findall(r"python -m benchmarks\.(\w+)", text)


def runnable(arguments: list[str]) -> bool:
    """Whether a command needs neither a network, nor a GPU, nor a real model, nor a person."""
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    hardware = given.get("hardware.device", given.get("hardware", "cpu"))
    return (
        given.get("experiment", "almanac") in ("almanac", "none")
        and hardware == "cpu"
        and "you/" not in " ".join(arguments)  # of the Hub: a test with a local server runs them
        and not any(item.startswith("-") and item != "-m" for item in arguments)
        and given.get("judge") != "endpoint"
        and not {"from", "stage.branch_from", "stage.teacher"} & set(given)  # of a longer run, and of a larger model
        and not (given.get("stage") == "label" and "judge" not in given)
        and given.get("stage") not in ("chat", "watch")
        and not {"stage.domains", "stage.lm_eval.tasks", "stage.weights", "benchmark"}
        & set(given)  # the user's files, a run with an adapter
        and (given.get("stage.format") not in ("gguf", "ollama") or find_spec("gguf") is not None)
    )


def small(arguments: list[str]) -> list[str]:
    """Return the arguments with settings appended that reduce the run to a second."""
    given = dict(item.split("=", 1) for item in arguments if "=" in item)
    stages = given.get("stage", "status").split(",")
    more = [
        "hardware.device=cpu" if "hardware" in given else "hardware=cpu",
        *(TINY if given.get("experiment", "almanac") == "almanac" else ()),
    ]
    arguments = ["seed=1" if item.startswith("seed=1,2") else item for item in arguments]  # one is enough
    if "sweep" in given:  # a search
        more.append("hydra.sweeper.n_trials=2")
    if stages == ["progression"]:
        own = ", ".join(f"{name}: [{', '.join(map(repr, FAST[name]))}]" for name in STAGES)
        return [*arguments, *more, f"stage.overrides={{{own}}}"]
    if len(stages) > 1:  # settings of a stage cannot stand beside a sweep over stages; recipes can
        kept = [item for item in arguments if "experiment" not in item]
        return ["--config-dir", "quick", *kept, *more, "experiment=quick"]
    return [*arguments, *more, *FAST.get(stages[0], ())]


def repeats(arguments: list[str]) -> bool:
    """Whether the stage is finished in a complete chain: its command would be refused, rightly."""
    named = [item for item in arguments if item.partition("=")[0] in ("stage", "resume")]
    return named == arguments and arguments != [] and arguments[0].removeprefix("stage=") in (*STAGES, "kto")
