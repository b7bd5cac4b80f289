import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.config import Settings
from rlhf.modeling import loading, vocabulary
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed
from tests.modeling.test_loading import plain_tokenizer, save_model

END = "<|endoftext|>"
TREES = ["ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "lime", "maple", "oak"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
)


def bytes_tokenizer(*specials: str, **options: str) -> PreTrainedTokenizerFast:
    """A token for each byte, and ``specials``."""
    alphabet = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(tokenizer_models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(list(specials))
    return PreTrainedTokenizerFast(tokenizer_object=made, **options)


def llama(rows: int, *, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, num_key_value_heads=2, tie_word_embeddings=tied, **sizes))


def gpt2(rows: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_positions=64, n_embd=32, n_layer=1, n_head=2, **special))


def saved(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Parent:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Parent("policy", str(folder), None)


def of_policy(
    parent: Parent, folder: Path, *overrides: str
) -> tuple[Settings, PreTrainedTokenizerFast, PreTrainedModel]:
    one = composed("stage=sft", "experiment=none", "model=local", f"model.path={folder}", *overrides)
    tokenizer = loading.load_tokenizer(parent, one.model)
    return one, tokenizer, loading.load_policy(parent, one.model, tokenizer)


@pytest.mark.parametrize(
    ("special", "rows", "found"),
    [
        ({"eos_token": "</s>", "bos_token": "<s>", "pad_token": "</s>", "unk_token": "<unk>"}, 6, "<unk>"),
        ({"eos_token": "</s>", "bos_token": "<s>", "pad_token": "c"}, 6, "c"),  # its own
        ({"eos_token": "</s>"}, 7, vocabulary.PAD),  # a row that no token has
        ({"eos_token": "</s>", "bos_token": "<s>"}, 6, "<s>"),  # no sequence ends with it
        ({"eos_token": "</s>"}, 6, "</s>"),
    ],
)
def test_padding_takes_no_new_row(special: dict[str, str], rows: int, found: str) -> None:
    tokenizer = plain_tokenizer(**special)
    vocabulary.set_padding(tokenizer, rows)
    assert tokenizer.pad_token == found
    assert len(tokenizer) <= rows


def test_a_padding_token_that_comes_without_a_name_is_found() -> None:
    tokenizer = bytes_tokenizer(END, "<|padding|>", eos_token=END)
    vocabulary.set_padding(tokenizer, 300)
    assert tokenizer.pad_token == "<|padding|>"


def test_padding_changes_no_probability_at_any_level_of_the_logits(tmp_path: Path) -> None:
    """Logits are defined up to a constant. Those of GPT-2 are far below 0, so new rows near 0 would dominate."""
    tokenizer = bytes_tokenizer(END, eos_token=END, bos_token=END, unk_token=END)
    model = gpt2(len(tokenizer)).eval()
    ids = torch.tensor([tokenizer("An oak.")["input_ids"]])
    with torch.no_grad():
        hidden = model.transformer(ids).last_hidden_state[0].mean(0)
        shift = -60 * hidden / hidden.dot(hidden)
        model.transformer.wte.weight += shift
        model.transformer.wpe.weight -= shift
        before = model(ids).logits.log_softmax(-1)
    parent = saved(tmp_path / "model", model, tokenizer)
    _, read, policy = of_policy(parent, tmp_path / "model")
    assert read.pad_token_id == read.eos_token_id
    assert policy.get_input_embeddings().num_embeddings == len(read) == len(tokenizer)
    assert torch.equal(policy.eval()(ids).logits.log_softmax(-1), before)


def test_the_loss_counts_the_end_where_padding_is_the_end(tmp_path: Path) -> None:
    """Rows of unlike length in one batch, by hand: the mean of -log p over completions and their ends, no padding."""
    tokenizer = bytes_tokenizer(END, eos_token=END)
    model = gpt2(len(tokenizer)).eval()
    parent = saved(tmp_path / "model", model, tokenizer)
    pairs = [(f"A {tree}?", f" {'very ' * i}old") for i, tree in enumerate(TREES[:4])]
    data = write(tmp_path / "data", [{"prompt": p, "completion": c} for p, c in pairs])
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, completion in pairs:
            ids = torch.tensor([tokenizer(prompt + completion)["input_ids"] + [tokenizer.eos_token_id]])
            logp = model(ids).logits[0, :-1].log_softmax(-1)
            own = -logp.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
            total, count = total + own.sum().item(), count + len(own)
    loss = sft(tmp_path, "one", parent, data, "stage.trainer.max_steps=1", "stage.trainer.learning_rate=1e-12")
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_eos_in_padding_is_not_part_of_a_score(tmp_path: Path) -> None:
    """Read alone or beside a longer row, at the token before the end."""
    tokenizer = bytes_tokenizer(END, eos_token=END)
    parent = saved(tmp_path / "model", gpt2(len(tokenizer)), tokenizer)
    one = composed("stage=reward", "experiment=none", "model=local", f"model.path={tmp_path / 'model'}")
    read = loading.load_tokenizer(parent, one.model)
    reward = loading.load_reward_model(parent, one.model, read).eval()
    from rlhf.rewards import RewardModel

    scorer = RewardModel(reward, read, max_length=None)
    texts = [("An oak?", " Old."), ("An oak?", " Old, and taller than all others.")]
    together = scorer([p for p, _ in texts], [c for _, c in texts])
    with torch.no_grad():
        for (prompt, completion), score in zip(texts, together, strict=True):
            ids = torch.tensor([tokenizer(prompt + completion)["input_ids"]])
            state = reward.base_model(input_ids=ids).last_hidden_state[0, -1]
            assert score == pytest.approx(float(reward.score(state)), abs=1e-5)


def write(folder: Path, rows: Sequence[dict]) -> Path:
    """The same rows to train on and to be measured on."""
    folder.mkdir()
    for split in ("train", "validation"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def sft(tmp_path: Path, name: str, parent: Parent, data: Path, *overrides: str) -> float:
    """The held-out loss of a run of stage=sft."""
    one = composed(
        "stage=sft", "experiment=none", "model=local", "hardware=cpu", f"model.path={parent.path}", f"name={name}",
        f"checkpoints={tmp_path / 'runs'}", f"data.path={data}", "data.demonstrations.validation=validation",
        "data.allow_leaks=true", f"stage.policy={parent.path}", "stage.sample_prompts=0", "stage.sample_length=8",
        "stage.trainer.max_length=32", *overrides,
    )  # fmt: skip
    return execute(one, tmp_path / "runs" / name / "sft")["eval/loss"]


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_are_the_same_whatever_the_seed(tmp_path: Path, tied: bool) -> None:
    """As people leave a model whose tokenizer they have given a chat template: three tokens more than rows."""
    tokenizer = bytes_tokenizer(END, eos_token=END)
    model = llama(len(tokenizer), tied=tied)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "bos_token": "<|im_start|>"})
    tokenizer.chat_template = TEMPLATE
    parent = saved(tmp_path / "model", model, tokenizer)
    talks = [
        {"messages": [{"role": "user", "content": f"A {tree}?"}, {"role": "assistant", "content": "old"}]}
        for tree in TREES
    ]
    data = write(tmp_path / "data", talks)
    rate = ("stage.trainer.learning_rate=1e-2", "stage.trainer.max_steps=4")
    trained = sft(tmp_path, "first", parent, data, "adapter=lora", *rate)
    first = Parent("policy", str(tmp_path / "runs" / "first" / "sft"), Run.open(tmp_path / "runs/first/sft").manifest)
    nothing = ("stage.trainer.learning_rate=1e-12", "stage.trainer.max_steps=1")
    for seed in (1, 2):
        again = sft(tmp_path, f"again{seed}", first, data, f"seed={seed}", *nothing)
        assert again == pytest.approx(trained, abs=1e-5)


def test_rows_of_new_tokens_are_like_the_others(settings: Callable[..., Settings], tmp_path: Path) -> None:
    """All logits tens below zero: a new token's is, too, and takes about the share of any other."""
    tokenizer = plain_tokenizer(eos_token="</s>", unk_token="<unk>")
    tokenizer.add_tokens([f"<{i}>" for i in range(20)])
    parent = save_model(tmp_path, tokenizer)
    policy = loading.load_policy(parent, settings("sft").model, tokenizer)
    again = loading.load_policy(parent, settings("sft", "seed=3").model, tokenizer)
    assert vocabulary.new_rows(policy) == 20
    for layer, other in zip(
        (policy.get_input_embeddings(), policy.get_output_embeddings()),
        (again.get_input_embeddings(), again.get_output_embeddings()),
        strict=True,
    ):
        assert torch.equal(layer.weight, other.weight)
        old, new = layer.weight[:6], layer.weight[6:]
        assert len(torch.unique(new, dim=0)) == 20
        # 160 numbers: the mean within four standard errors, the deviation within a quarter
        assert (new - old.mean(0)).mean().abs() < 4 * old.std() / math.sqrt(160)
        assert (new - old.mean(0)).std().item() == pytest.approx(old.std(0).square().mean().sqrt().item(), rel=0.25)


def test_a_separate_head_under_a_flag_of_tying(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(END, eos_token=END)
    model = llama(len(tokenizer), tied=True)
    head = torch.randn_like(model.lm_head.weight)
    model.save_pretrained(tmp_path / "model", state_dict={**model.state_dict(), "lm_head.weight": head.clone()})
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(tmp_path / "model")
    parent = Parent("policy", str(tmp_path / "model"), None)
    one, read, policy = of_policy(parent, tmp_path / "model")
    assert torch.equal(policy.lm_head.weight[:-1], head)
    loading.save(policy, read, tmp_path / "again", None)
    again = loading.load_policy(Parent("policy", str(tmp_path / "again"), None), one.model, read)
    assert torch.equal(again.lm_head.weight, policy.lm_head.weight)
    assert not torch.equal(again.lm_head.weight, again.get_input_embeddings().weight)


@pytest.mark.parametrize(("rows", "bias"), [(1, False), (3, True), (200, True)])
def test_logits_in_parts_are_those_of_one_product(rows: int, bias: bool) -> None:
    config = LlamaConfig(
        vocab_size=2 * vocabulary.PART + 7, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(config.vocab_size))
    hidden, usual = torch.randn(rows, 1, 16), model.lm_head.forward
    whole = model.lm_head(hidden)
    with vocabulary.logits_in_parts(model):
        torch.testing.assert_close(model.lm_head(hidden), whole, rtol=0, atol=1e-6)
    assert model.lm_head.forward == usual


def test_logits_of_a_small_vocabulary_are_one_product() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1))
    usual = model.lm_head.forward
    with vocabulary.logits_in_parts(model):
        assert model.lm_head.forward == usual
