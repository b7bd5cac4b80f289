import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.rows import RowError
from rlhf.data.transcripts import is_transcript, split_at_divergence, turns


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_turns_by_hand() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\nHow are you?\n\nHuman: Fine.\n\nAssistant:"
    assert turns(text, "chosen") == [user("Hi"), assistant("Hello.\nHow are you?"), user("Fine."), assistant("")]


def test_a_speaker_counts_only_at_the_start_of_a_paragraph() -> None:
    assert turns("Human: Human: is a word\nAssistant: too", "f") == [user("Human: is a word\nAssistant: too")]


@pytest.mark.parametrize("text", ["", "Hello", "Hello\n\nHuman: Hi"])
def test_a_text_without_a_speaker_is_refused(text: str) -> None:
    assert not is_transcript(text)
    with pytest.raises(RowError, match="field 'chosen' must be a transcript"):
        turns(text, "chosen")


def test_the_prompt_is_the_longest_common_prefix_of_turns() -> None:
    shared = [user("Hi"), assistant("Hello."), user("Why?")]
    split = split_at_divergence([*shared, assistant("So.")], [*shared, assistant("Sorry.")])
    assert split == (shared, [assistant("So.")], [assistant("Sorry.")])


def test_dialogues_that_diverge_early_keep_the_rest_of_both() -> None:
    chosen = [user("Hi"), assistant("A"), user("?"), assistant("B")]
    rejected = [user("Hi"), assistant("C")]
    assert split_at_divergence(chosen, rejected) == (chosen[:1], chosen[1:], rejected[1:])


def test_a_dialogue_that_continues_the_other_leaves_both_a_completion() -> None:
    chosen = [user("Hi"), assistant("A")]
    rejected = [*chosen, assistant("B")]
    assert split_at_divergence(chosen, rejected) == (chosen[:1], chosen[1:], rejected[1:])


dialogues = st.lists(st.builds(user, st.sampled_from("ab")) | st.builds(assistant, st.sampled_from("ab")), min_size=1)


@given(dialogues, dialogues)
def test_nothing_is_lost_and_no_completion_is_empty(one: list, other: list) -> None:
    prompt, chosen, rejected = split_at_divergence(one, other)
    assert prompt + chosen == one
    assert prompt + rejected == other
    assert chosen
    assert rejected
    assert chosen[0] != rejected[0] or 1 in (len(chosen), len(rejected))
