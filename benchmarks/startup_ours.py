"""`python -m rlhf` that writes a file when its first step begins: one side of `benchmarks.startup`."""

import sys
from pathlib import Path

import rlhf.stages
from rlhf.cli import main

if __name__ == "__main__":
    place, prepare = Path(sys.argv.pop(1)), rlhf.stages._prepare

    def prepared(*given):
        """Prepare a stage and attach to its reporter, which imports torch: the command composes its settings before."""
        prepare(*given)
        from rlhf.training import loop

        loop.Reporter.on_step_begin = lambda *_, **__: place.write_text("a step begins")

    rlhf.stages._prepare = prepared
    main.main()
