"""Removal of secrets, local paths and the host name from every published text, and a final check."""

import html
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import HubError
from rlhf.storage.paths import bundled
from rlhf.storage.secrets import FORM, redact
from rlhf.storage.secrets import text as without_secrets

SECRET_NAME = re.compile(r"token|secret|passw|api_?key|access_?key|credential|private_?key|auth", re.IGNORECASE)
SHORTEST, LONG = 8, 16  # characters of a secret with and without digits; shorter values match by chance
# At least two parts, so that "and/or" and "</s>" stay; not in a URL, whose slashes follow a colon or a word.
PATH = re.compile(r"(?<![\w:/.<>-])(?:~|\.\.)?(?:/[^/\s'\"`,;:|=<>(){}\[\]\\]+){2,}/?")
ANCHORS = ("checkpoints", "preference_data")
FORMS = {
    "a path of this machine": re.compile(r"(?<![\w:/.<>-])(?:/(?:home|root|Users|tmp|var|mnt|work|data)|~)/[\w.-]+"),
    "a token": FORM,
    "a password": re.compile(r"://(?!\*\*\*@)[^/@\s\"'<>]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
WRITTEN_HERE = (
    ".md",
    ".yaml",
    ".sh",
    ".svg",
    "run.json",
    "metrics.json",
    "adapter_config.json",
)  # not a tokenizer's entries
BLOCK = 1 << 24  # bytes read at a time


def secrets(environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the login's token and values of environment variables with names of secrets, longest first."""
    from huggingface_hub import get_token

    environment = os.environ if environment is None else environment
    named = {value for name, value in environment.items() if SECRET_NAME.search(name)} | {get_token() or ""}
    long = {value for value in named if len(value) >= (SHORTEST if re.search(r"\d", value) else LONG)}
    # Paths and addresses are not secrets, whatever the name of the variable.
    kept = {value for value in long if not value.startswith(("/", "http://", "https://"))}
    return sorted(kept, key=len, reverse=True)


def shortened(found: re.Match[str]) -> str:
    """Return the part of a path that reveals nothing about this machine: from an anchor on, or its last part."""
    parts = Path(found[0]).parts
    start = max((i for i, part in enumerate(parts) if part in ANCHORS), default=len(parts) - 1)
    return "/".join(parts[start:])


@dataclass(frozen=True)
class Scrubber:
    """``places``: absolute path -> its replacement; ``secret``: values to remove; ``host``: name of this machine."""

    places: dict[str, str]
    secret: tuple[str, ...]
    host: str

    @classmethod
    def of(cls, checkpoints: Iterable[str], environment: Mapping[str, str] | None = None) -> "Scrubber":
        """Return the scrubber of this machine and of runs in these ``checkpoints`` directories."""
        places = {str(bundled("preference_data")): "preference_data"}
        places |= {str(Path(path).absolute()): "checkpoints" for path in checkpoints if path}
        host = socket.gethostname()
        return cls(places, tuple(secrets(environment)), host if len(host) > 3 and host != "localhost" else "")

    def text(self, text: str) -> str:
        """Return ``text`` without secrets, local paths and the host name."""
        for value in self.secret:
            text = text.replace(value, "***")
        text = without_secrets(text)
        for place in sorted(self.places, key=len, reverse=True):
            text = re.sub(rf"{re.escape(place)}(?=/|\b)", self.places[place], text)
        cwd = str(Path.cwd())
        if cwd != "/":
            text = text.replace(f"{cwd}/", "")
        text = PATH.sub(shortened, text)
        if self.host:
            text = re.sub(rf"(?<!\w){re.escape(self.host)}(?!\w)", "***", text)
        return text

    def tree(self, value: Any) -> Any:
        """Return nested dicts and lists with scrubbed keys and texts, without values of keys that name secrets."""
        return self._tree(redact(value))

    def _tree(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.text(str(key)): self._tree(leaf) for key, leaf in value.items()}
        if isinstance(value, list | tuple):
            return [self._tree(leaf) for leaf in value]
        return self.text(value) if isinstance(value, str) else value

    def check(self, folder: Path) -> None:
        """Search all files to send, weights and tokenizers included, for secrets, and texts for local paths.

        Raises:
            HubError: a file contains a secret or a local path.
        """
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if self._holds_secret(path):
                raise HubError(f"{name} contains a secret of the environment; nothing is sent: remove it from the run")
            if name.endswith(WRITTEN_HERE):
                text = html.unescape(path.read_text(encoding="utf-8"))
                for kind, form in FORMS.items():
                    if form.search(text):
                        raise HubError(f"{name} contains {kind}; nothing is sent: remove it from the run")

    def _holds_secret(self, path: Path) -> bool:
        needles = [value.encode() for value in self.secret]
        longest = max(map(len, needles), default=1)
        tail = b""
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                if any(needle in tail + block for needle in needles):
                    return True
                tail = block[-longest:]
        return False
