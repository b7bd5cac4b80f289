"""Talk to trained models in the terminal, to several at once, or on a page on this machine.

    python -m rlhf stage=chat                                # the latest model of the chain
    python -m rlhf stage=chat "stage.policies=[sft,ppo]"     # two of its models, side by side
    python -m rlhf stage=chat "stage.policies=[org/model]"   # a run, a model folder, a GGUF file or a Hub id
    echo "What is an oak?" | python -m rlhf stage=chat       # each line is a message
    python -m rlhf stage=chat stage.web=true                 # in the browser; clicks write preference pairs

Ctrl-C stops an answer, Ctrl-D ends the conversation.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import torch
from rich.live import Live
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from rlhf.config import ChatStage, Settings
from rlhf.config.ranges import OURS
from rlhf.config.rules import closest, require
from rlhf.console import console, without_controls
from rlhf.data.render import Message
from rlhf.errors import ConfigError, RlhfError
from rlhf.labeling.chat import Answer, Chat, remarks
from rlhf.runs.parents import find_parents

HELP = """\
/model NAME        answer with another stage, run, folder, GGUF file or Hub id
/side NAME NAME    answer with several models, side by side
/retry             answer the last message again
/system TEXT       set the system message; without a text: remove it
/temperature X     set the temperature; 0: the most likely token
/new               forget the conversation
/help              this list
/quit              end, as does Ctrl-D; Ctrl-C stops an answer"""


def run(settings: Settings, overrides: Sequence[str] = ()) -> None:
    """Answer messages until the input ends, or serve the page until Ctrl-C."""
    stage = settings.stage_as(ChatStage)
    disable_progress_bar()  # of the loading of weights, which would run through the conversation
    if settings.hardware.threads is not None:
        torch.set_num_threads(settings.hardware.threads)
    reward = find_parents(settings, overrides).get("reward")
    chat = Chat(settings, overrides, reward)
    names = stage.policies or chat.available()[: 2 if stage.web else 1] or ["sft"]
    for name in names:
        chat.find(name)
    if reward is None and stage.reward is not None:
        note(f"answers have no score: stage.reward={stage.reward} does not exist")
    if stage.web:
        serve(chat, names)
    elif sys.stdin.isatty():
        converse(Terminal(chat, names))
    else:
        terminal = Terminal(chat, names)
        for line in filter(str.strip, sys.stdin):
            note(f"> {line.rstrip()}")
            if not terminal.read(line.strip()):
                break


def serve(chat: Chat, names: Sequence[str]) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from rlhf.labeling import chat_page
    except ImportError:
        raise ConfigError("stage.web=true needs a web server: pip install 'rlhf[label]'") from None
    port = chat.stage.port
    with suppress(KeyboardInterrupt):
        try:
            chat_page.serve(chat, names, port, lambda address: note(f"Open {address}; Ctrl-C ends"))
        except OSError as error:
            raise ConfigError(f"stage.port={port} is not available ({error.strerror}): set another port") from error


def converse(terminal: "Terminal") -> None:
    """Read messages from the keyboard until Ctrl-D or /quit; a mistake does not end the conversation."""
    with suppress(ImportError):
        importlib.import_module("readline")  # input() then has a history and editing keys
    note(f"{', '.join(terminal.names)}: type a message, /help for the commands, Ctrl-D to end")
    continues = True
    while continues:
        try:
            continues = terminal.read(input("> ").strip())
        except RlhfError as error:
            note(str(error))
        except KeyboardInterrupt:  # no answer is being written
            note("")
        except EOFError:
            note("")
            return


def note(text: str) -> None:
    """Print a line that is not an answer."""
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


class Terminal:
    """A conversation in the terminal. Each model continues the conversation from its own answers."""

    def __init__(self, chat: Chat, names: Sequence[str]):
        self.chat, self.names = chat, list(names)
        self.system, self.temperature = chat.stage.system, chat.stage.temperature
        self.talks: dict[str, list[Message]] = {name: [] for name in names}

    def read(self, line: str) -> bool:
        """Answer a message or obey a command; return whether the conversation continues.

        Raises:
            ConfigError: the command does not exist, or not with these words.
            RlhfError: a model cannot be loaded.
        """
        if not line.startswith("/"):
            if line:
                self.say(line)
            return True
        word, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "model": self.side,
            "side": self.side,
            "retry": self.retry,
            "system": self.set_system,
            "temperature": self.set_temperature,
            "new": self.new,
            "help": lambda rest: note(HELP),
        }
        if word in ("quit", "exit"):
            return False
        if word not in commands:
            raise ConfigError(f"there is no command /{word}{closest(word, commands)}; /help lists them")
        commands[word](rest.strip())
        return True

    def side(self, rest: str) -> None:
        """Answer with the named models; a new one continues the conversation of the first."""
        names = list(dict.fromkeys(rest.split()))
        if not names:
            known = ", ".join(self.chat.available()) or "none"
            raise ConfigError(f"/side and /model need names; stages of the chain that exist: {known}")
        for name in names:
            self.chat.find(name)
        first = self.talks[self.names[0]]
        self.talks = {name: self.talks.get(name, list(first)) for name in names}
        self.names = names

    def set_system(self, text: str) -> None:
        """Set or remove the system message."""
        self.system = text or None

    def set_temperature(self, text: str) -> None:
        """Set the temperature."""
        allowed = OURS["ChatStage"]["temperature"]
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"/temperature needs a number in {allowed}, got {text!r}") from None
        require(value in allowed, "/temperature", value, allowed.rule(value))
        self.temperature = value

    def new(self, rest: str) -> None:
        """Forget the conversation."""
        self.talks = {name: [] for name in self.names}

    def retry(self, rest: str) -> None:
        """Answer the last message again, with other random numbers."""
        asked = [turn["content"] for turn in self.talks[self.names[0]] if turn["role"] == "user"]
        if not asked:
            raise ConfigError("/retry needs a message: type one first")
        for talk in self.talks.values():
            del talk[max(i for i, turn in enumerate(talk) if turn["role"] == "user") :]
        self.say(asked[-1])

    def say(self, text: str) -> None:
        """Answer a message with each model. A model that has not begun when Ctrl-C is pressed forgets the message."""
        message: Message = {"role": "user", "content": text}
        live = len(self.names) > 1 and console.is_terminal
        for name, answer in (side_by_side if live else in_turn)(self.names, partial(self._answer, message)):
            if answer.text or not answer.stopped:
                self.talks[name] += [message, {"role": "assistant", "content": answer.text}]

    def _answer(self, message: Message, name: str, show: Callable[[str], None]) -> Answer:
        system: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return self.chat.answer(name, [*system, *self.talks[name], message], self.temperature, show)


Ask = Callable[[str, Callable[[str], None]], Answer]


def in_turn(names: Sequence[str], ask: Ask) -> list[tuple[str, Answer]]:
    """Print the answer of each model as it is written, below the model's name if there are several."""
    found: list[tuple[str, Answer]] = []
    for name in names:
        if len(names) > 1:
            console.print(Text(without_controls(name), style="bold"))
        answer = ask(name, lambda piece: console.out(without_controls(piece), end="", highlight=False))
        console.out("")
        if remark := remarks(answer):
            note(remark)
        found.append((name, answer))
        if answer.stopped:
            break
    return found


def side_by_side(names: Sequence[str], ask: Ask) -> list[tuple[str, Answer]]:
    """Show the answers in columns while they are written."""
    texts, below = dict.fromkeys(names, ""), dict.fromkeys(names, "")

    def table() -> Table:
        columns = Table.grid(padding=(0, 2), expand=True)
        for _ in names:
            columns.add_column(ratio=1, overflow="fold")
        columns.add_row(*(Text(name, style="bold") for name in names))
        columns.add_row(*(Text(texts[name]) for name in names))
        columns.add_row(*(Text(below[name], style="dim") for name in names))
        return columns

    found: list[tuple[str, Answer]] = []
    with Live(console=console, get_renderable=table, refresh_per_second=12):
        for name in names:

            def show(piece: str, name: str = name) -> None:
                texts[name] += piece

            answer = ask(name, show)
            below[name] = remarks(answer)
            found.append((name, answer))
            if answer.stopped:
                break
    return found
