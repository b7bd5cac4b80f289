"""The conversation in the terminal, scripted: one message or command per line."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.text import Text

from rlhf.config import Settings
from rlhf.errors import ConfigError, LineageError
from rlhf.labeling.chat import Answer
from rlhf.stages import execute
from rlhf.stages.chat import HELP, Terminal, converse, side_by_side
from tests.conftest import composed, tiny_overrides


@pytest.fixture
def talk(chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Returns the output of a script."""

    def of(*lines: str, overrides: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        settings = composed(*tiny_overrides("chat", chain), *overrides)
        assert execute(settings, chain / "almanac" / "chat") == {}
        return capsys.readouterr().out

    return of


def test_a_script_is_a_conversation(talk: Callable[..., str], chain: Path) -> None:
    out = talk("Which tree?", "", "/retry", "And why?", "/side sft base", "And how?", "/quit", "never asked")
    assert out.count("> ") == 6
    assert "never asked" not in out
    assert out.count("reward ") == 5  # two models answer the last message
    assert out.splitlines().count("sft") == out.splitlines().count("base") == 1
    assert "Loading weights" not in out
    assert not (chain / "almanac" / "chat").exists()  # a conversation is not a run


def test_two_equal_scripts_have_equal_answers(talk: Callable[..., str]) -> None:
    lines = ("/temperature 1", "Which tree?", "/retry")
    first = talk(*lines)
    assert talk(*lines) == first
    assert talk(*lines, overrides=("seed=1",)) != first


def test_a_missing_reward_run_is_named_and_a_missing_policy_is_refused(
    talk: Callable[..., str], tmp_path: Path
) -> None:
    assert "answers have no score: stage.reward=not/at/all does not" in talk(
        "Hi", overrides=("stage.reward=not/at/all",)
    )
    with pytest.raises(LineageError, match="stage=chat starts from .*sft, which does not exist: run stage=sft first"):
        talk("Hi", overrides=(f"checkpoints={tmp_path}",))


class Echo:
    """Stands in for the models: answers with the conversation that it sees."""

    def __init__(self, settings: Settings):
        self.stage, self.seen, self.stop = settings.stage, [], False
        self.names = ["sft", "ppo"]

    def available(self) -> list[str]:
        return self.names

    def find(self, name: str) -> None:
        if name not in self.names:
            raise LineageError(f"{name} does not exist")

    def answer(self, name: str, messages: list, temperature: float, show: Callable[[str], None]) -> Answer:
        self.seen.append((name, messages, temperature))
        for piece in (name, "\x1b[31m", "!"):
            show(piece)
            if self.stop:
                return Answer(name, None, ended=False, stopped=True)
        return Answer(f"{name}\x1b[31m!", 0.5, ended=True, stopped=False)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return composed("stage=chat", "stage.system=Be brief.")


@pytest.fixture
def echo(settings: Settings) -> Echo:
    return Echo(settings)


@pytest.fixture
def terminal(echo: Echo) -> Terminal:
    return Terminal(echo, ["sft"])


def contents(echo: Echo) -> list[str]:
    return [turn["content"] for turn in echo.seen[-1][1]]


def test_models_continue_from_their_own_answers(terminal: Terminal, echo: Echo) -> None:
    said = "sft\x1b[31m!"
    terminal.read("one")
    terminal.read("two")
    assert contents(echo) == ["Be brief.", "one", said, "two"]
    terminal.read("/retry")
    assert contents(echo) == ["Be brief.", "one", said, "two"]
    terminal.read("/model ppo")
    terminal.read("/system")
    terminal.read("/temperature 0.25")
    terminal.read("three")
    assert contents(echo) == ["one", said, "two", said, "three"]
    assert echo.seen[-1][0] == "ppo"
    assert echo.seen[-1][2] == 0.25
    terminal.read("/side ppo sft")
    terminal.read("/new")
    terminal.read("four")
    assert [(name, [turn["content"] for turn in messages]) for name, messages, _ in echo.seen[-2:]] == [
        ("ppo", ["four"]), ("sft", ["four"]),
    ]  # fmt: skip
    assert not terminal.read("/quit")


def test_the_list_of_commands_fits_a_terminal_of_80_columns() -> None:
    assert max(map(len, HELP.splitlines())) < 80


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/modle sft", "there is no command /modle; did you mean model.; /help lists them"),
        ("/retry", "/retry needs a message: type one first"),
        ("/side", "/side and /model need names; stages of the chain that exist: sft, ppo"),
        ("/temperature warm", "/temperature needs a number in .0, 100., got 'warm'"),
        ("/temperature -1", "/temperature must not be negative, got -1.0"),
        ("/temperature nan", "/temperature must lie in .0, 100., got nan"),
    ],
)
def test_a_mistake_in_a_command_is_one_sentence(terminal: Terminal, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        terminal.read(line)


def test_a_failed_switch_keeps_the_model(terminal: Terminal, echo: Echo) -> None:
    with pytest.raises(LineageError):
        terminal.read("/side sft nowhere")
    terminal.read("one")
    assert echo.seen[-1][0] == "sft"


def test_an_interrupted_answer_is_kept_and_the_other_model_forgets_the_message(terminal: Terminal, echo: Echo) -> None:
    terminal.read("/side sft ppo")
    echo.stop = True
    terminal.read("one")
    echo.stop = False
    terminal.read("two")
    (_, first, _), (_, other, _) = echo.seen[-2:]
    assert [turn["content"] for turn in first] == ["Be brief.", "one", "sft", "two"]
    assert [turn["content"] for turn in other] == ["Be brief.", "two"]


def test_control_characters_of_an_answer_do_not_reach_the_terminal(
    terminal: Terminal, capsys: pytest.CaptureFixture
) -> None:
    terminal.read("one")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "sft\N{REPLACEMENT CHARACTER}[31m!\nreward 0.500\n" in out


def test_a_mistake_ctrl_c_and_ctrl_d_at_the_keyboard(
    terminal: Terminal, echo: Echo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lines = iter(["/modle", KeyboardInterrupt, "one", EOFError])

    def typed(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", typed)
    converse(terminal)
    out = capsys.readouterr().out
    assert "there is no command /modle" in out
    assert "reward 0.500" in out
    assert next(lines, None) is None


def test_columns_show_both_answers(echo: Echo, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    found = side_by_side(["sft", "ppo"], lambda name, show: echo.answer(name, [], 1.0, show))
    out = Text.from_ansi(capsys.readouterr().out).plain
    assert [name for name, _ in found] == ["sft", "ppo"]
    assert any("sft" in line and "ppo" in line for line in out.splitlines())
    assert out.count("reward 0.500") == 2
    assert "\x1b" not in out
