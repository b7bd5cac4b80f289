"""What must not leave this machine: secrets, paths and the machine's name. Taken out of every text, then looked for."""

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
SHORTEST, LONG = 8, 16  # characters of a secret; what is shorter, or between them and a word, occurs by chance
# Two parts or more, so that "and/or" and "</s>" stay; no part of a URL, whose slashes follow a colon or a word.
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
    """The values of the environment, and of the login, that look like secrets by their names, longest first."""
    from huggingface_hub import get_token

    environment = os.environ if environment is None else environment
    found = {value for name, value in environment.items() if SECRET_NAME.search(name)} | {get_token() or ""}
    long = {value for value in found if len(value) >= (SHORTEST if re.search(r"\d", value) else LONG)}
    # A file's place or an address is no secret, whatever it is called.
    kept = {value for value in long if not value.startswith(("/", "http://", "https://"))}
    return sorted(kept, key=len, reverse=True)


def shortened(found: re.Match[str]) -> str:
    """Of a path what says nothing about this machine: from a folder of ours on, or its last part."""
    parts = Path(found[0]).parts
    start = max((i for i, part in enumerate(parts) if part in ANCHORS), default=len(parts) - 1)
    return "/".join(parts[start:])


@dataclass(frozen=True)
class Scrubber:
    """``places``: absolute path -> what stands for it; ``secret``: values never written; ``host``: this machine."""

    places: dict[str, str]
    secret: tuple[str, ...]
    host: str

    @classmethod
    def of(cls, checkpoints: Iterable[str], environment: Mapping[str, str] | None = None) -> "Scrubber":
        """For this machine, and for runs whose ``checkpoints`` were these."""
        places = {str(bundled("preference_data")): "preference_data"}
        places |= {str(Path(path).absolute()): "checkpoints" for path in checkpoints if path}
        host = socket.gethostname()
        return cls(places, tuple(secrets(environment)), host if len(host) > 3 and host != "localhost" else "")

    def text(self, text: str) -> str:
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
        """Nested dicts and lists with every text scrubbed, keys too, and what a key calls a secret."""
        return self._tree(redact(value))

    def _tree(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.text(str(key)): self._tree(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._tree(one) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def check(self, folder: Path) -> None:
        """Look through what is about to be sent; weights and tokenizers too, for values of secrets.

        Raises:
            HubError: something is there that must not leave this machine.
        """
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if self._holds_secret(path):
                raise HubError(f"{name} holds a secret of the environment, so nothing is sent: remove it from the run")
            if name.endswith(WRITTEN_HERE):
                text = html.unescape(path.read_text(encoding="utf-8"))
                for what, form in FORMS.items():
                    if form.search(text):
                        raise HubError(f"{name} holds {what}, so nothing is sent: remove it from the run")

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
