import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlhf.data import bounds, templates
from rlhf.data.render import encode, prompt_ids
from rlhf.errors import ModelError
from tests.modeling.test_vocabulary import END, bytes_tokenizer

TALK = [{"role": "user", "content": "Hello"}]
LONG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LARGE = "{% set x = namespace(s='x' * 1000000) %}{% for i in range(200) %}{{ x.s }}{% endfor %}"


LARGE_IN_A_NEW_PROCESS = f"""
from rlhf.data import bounds
from rlhf.data.render import prompt_ids
from rlhf.errors import ModelError
from tests.modeling.test_vocabulary import END, bytes_tokenizer

bounds.ROOM = 50 * 2**20
tokenizer = bytes_tokenizer(END, eos_token=END)
tokenizer.chat_template = {LARGE!r}
try:
    prompt_ids(tokenizer, {TALK!r})
except ModelError as error:
    print(error)
"""


def test_memory_of_a_template_is_bounded() -> None:
    """In a new process: this one may hold freed memory, which is not bounded."""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", LARGE_IN_A_NEW_PROCESS], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert "takes too long or too much memory (out of memory)" in result.stdout, result.stderr


def test_time_of_a_template_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bytes_tokenizer(END, eos_token=END)
    tokenizer.chat_template = LONG
    monkeypatch.setattr(bounds, "SECONDS", 0.2)
    with pytest.raises(ModelError, match="takes too long or too much memory .*has not ended after 0.2 seconds"):
        prompt_ids(tokenizer, TALK)
    tokenizer.chat_template = "{{ messages[0].content }}"
    monkeypatch.undo()
    assert tokenizer.decode(prompt_ids(tokenizer, TALK)) == "Hello"


def test_the_output_of_a_template_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bytes_tokenizer(END, eos_token=END)
    tokenizer.chat_template = "{{ 'x' * 100 }}"
    monkeypatch.setattr(templates, "LONGEST", 99)
    with pytest.raises(ModelError, match="it has written more than 99 characters"):
        prompt_ids(tokenizer, TALK)


@pytest.mark.parametrize("special", [True, False])
def test_a_batch_has_the_ids_of_its_texts(special: bool) -> None:
    tokenizer = bytes_tokenizer(END, eos_token=END)
    texts = ["a", f"b{END}", "", f"{END}{END}"]
    for options in ({}, {"add_special_tokens": special}, {"split_special_tokens": special}):
        alone = [tokenizer(text, **options)["input_ids"] for text in texts]
        assert bounds.token_ids(tokenizer, texts, **options) == alone


@pytest.mark.parametrize("talks", [False, True])
def test_long_texts_are_tokenized_in_parts(monkeypatch: pytest.MonkeyPatch, talks: bool) -> None:
    tokenizer = bytes_tokenizer(END, eos_token=END)
    tokenizer.chat_template = "{{ messages[0].content }}"
    texts = ["aaa", "bbbb", "ccccccccc", "d"]
    prompts = [[{"role": "user", "content": text}] for text in texts] if talks else texts
    whole, own, lengths = encode(tokenizer, prompts), bounds._ids, []

    def ids(tokenizer: object, part: list[str], options: dict[str, object]) -> list[list[int]]:
        lengths.append(sum(map(len, part)))
        return own(tokenizer, part, options)

    monkeypatch.setattr(bounds, "AT_ONCE", 8)
    monkeypatch.setattr(bounds, "_ids", ids)
    assert encode(tokenizer, prompts) == whole
    assert lengths == [7, 9, 1]


def test_another_alarm_still_rings() -> None:
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    theirs = signal.setitimer(signal.ITIMER_REAL, 0.2)  # an alarm that the test runner may have set
    try:
        with bounds.bounded(seconds=5.0):
            time.sleep(0.05)
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2
        time.sleep(0.3)
        assert rung == [True]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *theirs)


def test_time_is_not_bounded_outside_the_main_thread() -> None:
    done = []

    def work() -> None:
        with bounds.bounded(seconds=0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_the_error_of_a_template_has_no_control_characters() -> None:
    tokenizer = bytes_tokenizer(END, eos_token=END)
    tokenizer.chat_template = "{{ raise_exception('\x1b[31mred\x07\nand more') }}"
    with pytest.raises(ModelError) as error:
        prompt_ids(tokenizer, TALK)
    assert str(error.value).isprintable()
    assert "red" in str(error.value)
