"""The entry of the command line. Version, help, most completions and unknown stages do not import Hydra."""

import os
import sys
from collections.abc import Sequence

import rlhf
from rlhf.cli.completion import offers, options_of
from rlhf.storage.paths import bundled


def main() -> None:
    """Run the command line."""
    if sentence := unknown_stage(sys.argv[1:]):
        print(f"rlhf: {sentence}", file=sys.stderr)
        sys.exit(1)
    told = quick(sys.argv[1:])
    if told is None:
        from rlhf.cli.main import main as whole

        whole()
        return
    try:
        print(told, flush=True)
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def quick(given: Sequence[str]) -> str | None:
    """Return the output of a command that reads only conf/; None for any other command."""
    match given:
        case ["--version"]:
            return f"rlhf {rlhf.__version__}"
        case ["--help" | "-h"]:
            from rlhf.cli.help import help_text

            return help_text([])
        case ["-sc", "query=bash"]:  # as the script of -sc install=bash asks
            words = offers(os.environ.get("COMP_LINE", ""))
            return None if words is None else " ".join(words)
    return None


def unknown_stage(given: Sequence[str]) -> str | None:
    """Return the message about a stage that does not exist, which is Hydra's; None for any other command.

    A command with options, a process of torchrun, and a user who asks for tracebacks are left to Hydra.
    """
    named = [word.removeprefix("stage=") for word in given if word.startswith("stage=")]
    if not named or not named[-1].isidentifier() or any(word.startswith("-") for word in given):
        return None
    known = options_of(bundled("conf"), "stage")
    if named[-1] in known or {"RANK", "HYDRA_FULL_ERROR"} & set(os.environ):
        return None
    from rlhf.config.rules import closest

    return f"unknown stage {named[-1]!r}; choose from {', '.join(known)}{closest(named[-1], known)}"
