"""Ollama's templates, rendered as Go renders them: they render the conversations that transformers renders."""

import re
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlhf.data.templates import chat_template, templated
from rlhf.errors import ModelError
from rlhf.modeling.from_scratch import new_tokenizer
from rlhf.publishing.modelfile import modelfile, turns

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + '<|stop|>\n\n' + m['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else m['content'] + '</s>' }}{% endfor %}"
)
LOUD = CHATML.replace("m['content']", "m['content'] | upper")
COUNTED = CHATML.replace("'\n' + m", "loop.index | string + '\n' + m")


def of(template: str, bos: str | None = None) -> PreTrainedTokenizerFast:
    alphabet = {text: id for id, text in enumerate(["<end>", "<bos>", *pre_tokenizers.ByteLevel.alphabet()])}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    found = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", bos_token=bos)
    found.chat_template = template
    return found


ALMANAC = new_tokenizer(["Which tree is the tallest?"] * 3, 300, chat_template("almanac"))


@pytest.mark.parametrize(
    "tokenizer", [ALMANAC, of(CHATML), of(LLAMA3, "<bos>"), of(NO_SYSTEM), of(chat_template("plain"))],
    ids=["almanac", "chatml", "llama3", "no system", "plain"],
)  # fmt: skip
def test_it_renders_other_conversations_as_transformers_does(tokenizer: Any) -> None:
    found = turns("stage.run=x", tokenizer)
    contents = ('Tell me {{ .Content }} about "it".', "No.", "Why?")
    roles = ("user", "assistant", "user")
    talk = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    for one in (talk, talk[:1], [{"role": "system", "content": "Be brief."}, *talk] if found.system else talk):
        expected = templated(tokenizer, one, tokenize=False, add_generation_prompt=True)
        spaced = found.rendered(one) if tokenizer is not ALMANAC else re.sub(r"(?<=\|>) ", "", found.rendered(one))
        assert spaced == expected.removeprefix("<bos>")  # Ollama puts the beginning of sequence in front


@pytest.mark.parametrize("template", [LOUD, COUNTED])
def test_a_template_that_does_more_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="stage.run=x has a chat template that cannot be written for Ollama"):
        turns("stage.run=x", of(template))


def test_a_modelfile_has_the_template_the_stop_tokens_and_the_context() -> None:
    lines = modelfile("stage.run=x", "tiny.gguf", ALMANAC, 256).splitlines()
    assert lines[0] == "FROM ./tiny.gguf"
    assert lines[1:6] == [
        'TEMPLATE """{{- range $place, $turn := .Messages }}',
        '{{- if eq .Role "system" }}{{ "<|system|> " }}{{ .Content }}{{ end }}',
        '{{- if eq .Role "user" }}{{ "<|user|> " }}{{ .Content }}{{ end }}',
        '{{- if eq .Role "assistant" }}{{ "<|assistant|> " }}{{ .Content }}{{ "<|end|>" }}{{ end }}',
        '{{- end }}{{ "<|assistant|>" }}"""',
    ]
    assert lines[6:] == ['PARAMETER stop "<|end|>"', "PARAMETER num_ctx 256"]
    assert 'if eq $place 0 }}{{ "<|im_start|>system\\nYou help.' in modelfile("stage.run=x", "a", of(CHATML), 8)


def test_a_text_model_has_the_prompt_as_its_template() -> None:
    plain = of(CHATML)
    plain.chat_template = None
    assert 'TEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<end>"' in modelfile("stage.run=x", "a", plain, 8)
