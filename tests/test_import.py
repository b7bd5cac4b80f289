"""The package is importable without the modules and the signals of Unix."""

import subprocess
import sys

WINDOWS = """
import builtins, pkgutil, signal

importing = builtins.__import__

def of_windows(name, globals=None, locals=None, fromlist=(), level=0):
    ours = str((globals or {}).get("__name__")).split(".")[0] == "rlhf"  # other packages look at sys.platform
    if ours and name in ("fcntl", "grp", "pwd", "pty", "resource", "termios"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return importing(name, globals, locals, fromlist, level)

builtins.__import__ = of_windows
for name in ("SIGHUP", "SIGQUIT"):
    delattr(signal, name)

import rlhf

for module in pkgutil.walk_packages(rlhf.__path__, "rlhf."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
"""


def test_every_module_is_imported_without_what_windows_has_not() -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
