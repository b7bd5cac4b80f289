"""Every family of conf/model, with its configuration's quirks and its tokenizer's, through the stages.

Random models of some ten thousand parameters: what is held is that each stage begins where the one before it ended,
that a policy begins at no distance from itself, that it learns to stop, and that what is published is what was trained.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from rlhf.config import Settings
from rlhf.errors import ModelError
from rlhf.modeling import loading
from rlhf.runs.directory import BUNDLES
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import execute
from tests.conftest import composed
from tests.modeling.test_vocabulary import bytes_tokenizer

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{{ bos }}{% for m in messages %}{{ start + m['role'] + '\n' + m['content'] + stop + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ start + 'assistant\n' }}{% endif %}"
)
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256,
}  # fmt: skip
MANY = {"num_key_value_heads": 2}


def chatml(start: str, stop: str, bos: str = "") -> str:
    return f"{{%- set bos, start, stop = {bos!r}, {start!r}, {stop!r} -%}}{CHATML}"


class Family(NamedTuple):
    """``spare`` rows of the embedding are behind the last token; ``ends`` are those of its generation config."""

    kind: str
    config: dict[str, Any]
    specials: tuple[str, ...]
    marks: dict[str, str]
    template: str | None = None
    spare: int = 0
    ends: tuple[str, ...] = ()


FAMILIES = {
    "gpt2": Family(
        "gpt2",
        {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "tie_word_embeddings": True},
        (END,),
        {"eos_token": END, "bos_token": END, "unk_token": END},
    ),
    "pythia": Family(
        "gpt_neox",
        SIZES | MANY | {"rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False},
        (END, "<|padding|>"),
        {"eos_token": END, "bos_token": END, "unk_token": END},
        spare=19,
    ),
    "llama": Family(
        "llama",
        SIZES | {"tie_word_embeddings": True, "rope_theta": 500000.0},
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start|>", "<|finetune_right_pad_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        chatml("<|start|>", "<|eot_id|>", "<|begin_of_text|>"),
        ends=("<|end_of_text|>", "<|eot_id|>"),
    ),
    "mistral": Family(
        "mistral",
        SIZES | {"sliding_window": 16, "tie_word_embeddings": False},
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    "qwen3": Family(
        "qwen3",
        SIZES | {"head_dim": 24, "tie_word_embeddings": True},
        (END, START, STOP),
        {"eos_token": STOP, "pad_token": END},
        chatml(START, STOP),
        spare=13,
        ends=(STOP, END),
    ),
    "smollm2": Family(
        "llama",
        SIZES | {"tie_word_embeddings": True},
        (END, START, STOP),
        {"bos_token": START, "eos_token": STOP, "pad_token": STOP, "unk_token": END},
        chatml(START, STOP),
    ),
    "gemma": Family(
        "gemma",
        SIZES | {"head_dim": 16, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"},
        ("<pad>", "<eos>", "<bos>", "<unk>"),
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    ),
    "gemma2": Family(
        "gemma2",
        SIZES
        | {"head_dim": 16, "sliding_window": 16, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
        | {"query_pre_attn_scalar": 16, "tie_word_embeddings": True},
        ("<pad>", "<eos>", "<bos>", "<unk>"),
        {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    ),
    "granite": Family(
        "granite",
        SIZES
        | {"logits_scaling": 4.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
        | {"attention_multiplier": 0.1, "tie_word_embeddings": True},
        (END, "<fim_pad>"),
        {"eos_token": END, "bos_token": END, "pad_token": END},
    ),
    "phi": Family(
        "phi",
        SIZES | MANY | {"partial_rotary_factor": 0.5, "tie_word_embeddings": False},
        (END,),
        {"eos_token": END, "bos_token": END, "unk_token": END},
        spare=40,
    ),
    "olmo2": Family(
        "olmo2",
        SIZES | {"tie_word_embeddings": False},
        (END, "<|pad|>"),
        {"eos_token": END, "pad_token": "<|pad|>"},
    ),
}  # fmt: skip
SHORT = {("gpt2", "none"), ("granite", "lora")}  # whatever is quick; the others are slow


def brevity(prompts: list, completions: list[str]) -> list[float]:
    """A gold reward, for families without a reward model."""
    return [-float(len(completion)) for completion in completions]


def made(family: Family, folder: Path) -> Path:
    tokenizer = bytes_tokenizer(*family.specials, **family.marks)
    tokenizer.chat_template = family.template
    torch.manual_seed(0)
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": None}
    config = AutoConfig.for_model(family.kind, vocab_size=len(tokenizer) + family.spare, **family.config | special)
    model = AutoModelForCausalLM.from_config(config)
    if family.ends:
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids(list(family.ends)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write(folder: Path, talks: bool) -> tuple[Path, Path]:
    """Demonstrations and pairs; an answer is a token or a few, so that a policy soon learns to stop."""

    def said(role: str, text: str) -> Any:
        return [{"role": role, "content": text.strip()}] if talks else text

    names = ("ash", "elm", "fir", "oak", "yew", "box", "bay", "fig")
    asked = [(f"{word} {name}?", name) for name in names for word in ("Old", "New", "Tall")]
    demonstrations = [{"prompt": said("user", p), "completion": said("assistant", " y")} for p, _ in asked]
    pairs = [
        {"prompt": said("user", p), "chosen": said("assistant", " y"), "rejected": said("assistant", f" n {name}")}
        for p, name in asked
    ]
    found = []
    for name, rows in {"demonstrations": demonstrations, "pairs": pairs}.items():
        found.append(folder / f"{name}.jsonl")
        found[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return found[0], found[1]


STAGES = {
    "sft": ("stage.trainer.max_steps=40", "stage.trainer.learning_rate=2e-2"),
    "reward": (
        "stage.trainer.max_steps=4", "stage.trainer.learning_rate=1e-2", "stage.statistics_prompts=4",
        "stage.probe_rows=4", "stage.bootstrap=20", "stage.tfidf_pairs=20",
    ),
    "dpo": ("stage.trainer.max_steps=2", "stage.trainer.learning_rate=1e-4", "stage.trainer.logging_steps=1"),
    "ppo": (
        "stage.updates=2", "stage.batch_size=4", "stage.epochs=1", "stage.max_response_length=8",
        "stage.missing_eos=keep", "stage.learning_rate=1e-4", "stage.max_prompt_length=60",
    ),
    "compare": (
        "stage.prompts=8", "stage.samples=2", "stage.max_response_length=8", "stage.bootstrap=20",
        "stage.max_prompt_length=60", "stage.questions=[Old oak?]", "stage.pairs=0", "stage.temperature=0.2",
    ),
    "publish": (),
}  # fmt: skip


class Chain:
    """The stages of one model, one after the other; ``logits`` are those of each at the end of its training."""

    def __init__(self, root: Path, model: Path, adapter: str, data: tuple[Path, Path], patch: pytest.MonkeyPatch):
        self.root, self.adapter, self.data, self.parent = root / "runs", adapter, data, model
        self.ids = torch.tensor([[40, 50, 60, 70, 80], [41, 51, 61, 71, 81]])
        self.logits: dict[str, torch.Tensor] = {}
        before = loading.save

        def save(model: Any, tokenizer: Any, folder: Path, parent: Parent | None) -> None:
            self.logits[str(folder.parent.name)] = logits_of(model, self.ids)
            before(model, tokenizer, folder, parent)

        patch.setattr(loading, "save", save)

    def settings(self, stage: str, *overrides: str) -> Settings:
        trained = stage in ("sft", "reward", "dpo", "ppo")
        data = self.data[0 if stage in ("sft", "compare") else 1]
        lengths = ("stage.trainer.max_length=100",) if stage in ("sft", "reward", "dpo") else ()
        return composed(
            f"stage={stage}", "experiment=none", "model=local", f"model.path={self.parent}", "hardware=cpu",
            f"checkpoints={self.root}", f"data.path={data}", "data.allow_leaks=true", "eval_set.prompts=0",
            *lengths, *STAGES[stage], *((f"adapter={self.adapter}", "adapter.dropout=0.0") if trained else ()),
            *(("stage.sample_prompts=1", "stage.sample_length=4") if trained else ()), *overrides,
        )  # fmt: skip

    def run(self, stage: str, *overrides: str) -> dict[str, float]:
        return execute(self.settings(stage, *overrides), self.root / stage)

    def load(self, stage: str) -> Any:
        """As the next stage does, adapters merged."""
        parent = Parent("policy", str(self.root / stage), Run.open(self.root / stage).manifest)
        model = self.settings("sft").model
        tokenizer = loading.load_tokenizer(parent, model)
        return (loading.load_reward_model if stage == "reward" else loading.load_policy)(parent, model, tokenizer)

    def first(self, stage: str) -> dict[str, float]:
        return json.loads((self.root / stage / "metrics.jsonl").read_text().splitlines()[0])


@torch.no_grad()
def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    training = model.training
    found = model.eval()(input_ids=ids, use_cache=False).logits.float()
    model.train(training)
    return found


def cases() -> list[Any]:
    return [
        pytest.param(name, adapter, marks=() if (name, adapter) in SHORT else pytest.mark.slow, id=f"{name}-{adapter}")
        for name in FAMILIES
        for adapter in ("none", "lora")
    ]


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*", "ignore:.*fan_in_fan_out.*")
@pytest.mark.parametrize(("name", "adapter"), cases())
def test_a_family_through_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, adapter: str) -> None:
    family = FAMILIES[name]
    model = made(family, tmp_path / "model")
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    chain = Chain(tmp_path, model, adapter, write(tmp_path, family.template is not None), monkeypatch)
    sft, reward = f"stage.policy={chain.root / 'sft'}", f"stage.reward={chain.root / 'reward'}"

    if adapter == "lora":  # an adapter is for a model that can speak: the head of a random one stays random
        execute(chain.settings("sft", f"stage.policy={model}", "adapter=none"), chain.root / "start")
        model = chain.root / "start"
    chain.run("sft", f"stage.policy={model}")
    scores = name != "granite"
    if scores:
        chain.run("reward", sft)
    else:
        with pytest.raises(ModelError, match=f"no classifier of the architecture {name}"):
            chain.run("reward", sft)
        term = "{brief: {length: {min: 1, max: 5}}}"
        reward = "stage.reward=null"
    chain.run("dpo", sft)
    chain.run("ppo", sft, reward, *(() if scores else (f"stage.rewards={term}", "stage.critic_kind=value_head")))
    for stage, trained in chain.logits.items():
        stage = stage.removeprefix(".").removesuffix(".partial")
        torch.testing.assert_close(logits_of(chain.load(stage), chain.ids), trained, atol=2e-4, rtol=1e-4)
    assert chain.load("ppo").get_input_embeddings().num_embeddings == size  # padding took no row
    start = chain.first("dpo")
    assert start["train/rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert start["train/rewards/margins"] == pytest.approx(0, abs=1e-4)
    start = chain.first("ppo")
    assert start["objective/kl"] == pytest.approx(0, abs=1e-3)
    assert start["val/ratio"] == pytest.approx(1, abs=1e-3)

    columns = {stage: str(chain.root / stage) for stage in ("sft", "dpo", "ppo")}
    given = ", ".join(f"{stage}: {path}" for stage, path in columns.items())
    found = chain.run(
        "compare", f"stage.models={{{given}}}", reward, *(() if scores else ("data.gold=tests.test_families:brevity",))
    )
    for stage in columns:
        assert found[f"ends/{stage}"] > 0.5
    published(chain, "ppo", AutoModelForCausalLM)
    if scores:
        published(chain, "reward", AutoModelForSequenceClassification)


def published(chain: Chain, stage: str, kind: Any) -> None:
    """The published files give plain transformers the logits of the trained model, also in a padded batch."""
    chain.run("publish", f"stage.run={chain.root / stage}", "stage.base=none", "overwrite=true")
    bundle = max((chain.root / "publish" / BUNDLES).iterdir(), key=lambda path: path.stat().st_mtime_ns)  # the last one
    model, tokenizer = kind.from_pretrained(bundle), AutoTokenizer.from_pretrained(bundle)
    [trained] = [value for key, value in chain.logits.items() if key.strip(".").removesuffix(".partial") == stage]
    torch.testing.assert_close(logits_of(model, chain.ids), trained, atol=2e-4, rtol=1e-4)
    texts = ["Old oak? y", "Old elm, fir and yew? n"]
    together = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    alone = [tokenizer(text, return_tensors="pt") for text in texts]
    with torch.no_grad():
        both = model.eval()(**together).logits
        for number, one in enumerate(alone):
            single = model(**one).logits[0]
            padded = both[number] if stage == "reward" else both[number, : len(one["input_ids"][0])]
            torch.testing.assert_close(padded, single, atol=2e-4, rtol=1e-4)
