"""`python -m rlhf` that writes a file when its first step begins: one side of `benchmarks.startup`."""

import sys
from pathlib import Path

from rlhf.cli import main
from rlhf.training import loop

if __name__ == "__main__":
    place = Path(sys.argv.pop(1))
    loop.Reporter.on_step_begin = lambda *_, **__: place.write_text("a step begins")
    main.main()
