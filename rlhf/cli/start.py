"""The entry of the command line. The version, the help and most completions need no Hydra, which takes longer."""

import os
import sys
from collections.abc import Sequence

import rlhf


def main() -> None:
    """Run the command line."""
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
    """Return the output of a command that needs no settings; None for any other command."""
    match given:
        case ["--version"]:
            return f"rlhf {rlhf.__version__}"
        case ["--help" | "-h"]:
            from rlhf.cli.help import help_text

            return help_text([])
        case ["-sc", "query=bash"]:  # as the script of -sc install=bash asks
            from rlhf.cli.completion import offers

            words = offers(os.environ.get("COMP_LINE", ""))
            return None if words is None else " ".join(words)
    return None
