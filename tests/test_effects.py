"""Every setting of the stages that train changes what they compute: two values, two results.

The settings are those of the dataclasses and of ``trainer:`` in conf/stage/, so that a new one without a case fails. A
setting that does not change the result on purpose is in ``SAME``, with the reason.
"""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.config import STAGES, Adapter
from rlhf.ppo import ValueHead
from rlhf.runs.run import Run
from rlhf.stages import execute
from rlhf.storage.paths import bundled
from tests.ppo.conftest import new_trainer, tokenizer, weights  # noqa: F401  fixtures

# ruff: noqa: F811

BESIDE = "what is shown or kept beside the training"
ROUNDING = "the same numbers, up to rounding"
CARD = "of the report card; tests/evaluation/reward_card/test_card.py"
LOADED = "what is loaded; tests/stages and tests/rewards/test_build.py"
SAME = {
    **dict.fromkeys(("name", "sample_every", "sample_prompts", "sample_length", "save_every", "log_every"), BESIDE),
    "trainer.save_steps": BESIDE, "ledger": BESIDE, "keep_every": BESIDE, "branch_from": "tests/runs/test_branches.py",
    "teacher": "tests/ppo/test_optimum.py", "ema": "of the saved weights; tests/ppo/test_average.py",
    "ptx_block_length": "of stage.ptx_coef; tests/data/test_blocks.py",
    **dict.fromkeys(("shared_prefix", "cache_reference", "share_base_model"), ROUNDING),
    **dict.fromkeys(("micro_batch_size", "micro_batch_tokens"), ROUNDING),
    "trainer.activation_checkpointing": ROUNDING, "trainer.per_device_eval_batch_size": ROUNDING,
    "reference": LOADED,
    **dict.fromkeys(("policy", "reward", "rewards", "gold", "critic", "reward_defaults", "critic_kind"), LOADED),
    "distance_coef": "of stage.distance_rows; tests/rewards/test_build.py",
    "distance_rows": "kept beside the model; tests/rewards/test_distance.py",
    "shadows": "scores that train nothing; tests/rewards/test_in_training.py",
    **dict.fromkeys(("probe_rows", "tfidf_pairs", "calibration_bins", "bootstrap", "statistics_prompts"), CARD),
    "autopsies": CARD,
    "statistics_temperature": CARD, "sentinel": "tests/ppo/test_sentinel.py", "rollout": "tests/ppo/test_rollout.py",
    "importance_cap": "of other engines; tests/ppo/test_vllm_sampler.py", "kind": "tests/modeling/test_adapters.py",
    "target_modules": "tests/modeling/test_adapters.py", "turns": "of conversations; tests/data/test_tokens.py",
    "learning_rate_factor": "of the default learning rate in conf/stage/; tests/test_conf.py",
}  # fmt: skip
# Tested in stage=dpo for all stages: rlhf.training.arguments passes them to transformers' optimizer and scheduler.
OPTIMIZED = {
    "trainer.lr_scheduler_type": ["stage.trainer.lr_scheduler_type=constant"],
    "trainer.warmup_steps": ["stage.trainer.warmup_steps=2"],
    "trainer.weight_decay": ["stage.trainer.weight_decay=0.5"],
    "trainer.max_grad_norm": ["stage.trainer.max_grad_norm=0.001"],
    "trainer.adam_beta2": ["stage.trainer.adam_beta2=0.5"],
}
COMMON = {
    "trainer.learning_rate": ["stage.trainer.learning_rate=0.02"],
    "trainer.num_train_epochs": ["stage.trainer.max_steps=-1", "stage.trainer.num_train_epochs=0.5"],
    "trainer.max_steps": ["stage.trainer.max_steps=3"],
    "trainer.per_device_train_batch_size": ["stage.trainer.per_device_train_batch_size=2"],
    "trainer.gradient_accumulation_steps": ["stage.trainer.gradient_accumulation_steps=2"],
    "trainer.logging_steps": ["stage.trainer.logging_steps=2"],
    "trainer.eval_strategy": ["stage.trainer.eval_strategy=steps"],
    "trainer.eval_steps": (["stage.trainer.eval_strategy=steps"], ["stage.trainer.eval_steps=2"]),
    "early_stopping": (
        [
            "stage.trainer.learning_rate=0",
            "stage.trainer.max_steps=4",
            "stage.trainer.save_steps=1",
            "stage.trainer.eval_strategy=steps",
        ],
        ["stage.early_stopping=1"],
    ),
    "trainer.max_length": ["stage.trainer.max_length=24"],
}
SCHEDULE, FOUR = "stage.trainer.lr_scheduler", ("stage.trainer.max_steps=4",)
# Setting -> what changes it; in pairs, where the other value needs something of both: (of both, of the one).
TRAINED: dict[str, dict[str, Any]] = {
    "base": COMMON
    | {
        "trainer.num_train_epochs": (
            ["stage.block_length=16", "stage.trainer.max_steps=-1"],
            ["stage.trainer.num_train_epochs=0.5"],
        ),
        "block_length": ["stage.block_length=16"],
        "trainer.lr_scheduler_kwargs": (
            [f"{SCHEDULE}_type=cosine_with_min_lr", f"{SCHEDULE}_kwargs={{min_lr_rate: 0.1}}", *FOUR],
            [f"{SCHEDULE}_kwargs={{min_lr_rate: 0.9}}"],
        ),
    },
    "sft": COMMON | {"trainer.train_sampling_strategy": ["stage.trainer.train_sampling_strategy=random"]},
    "reward": COMMON
    | {
        "loss": ["stage.loss=plackett_luce"],
        "trainer.center_rewards_coefficient": ["stage.trainer.center_rewards_coefficient=0.5"],
        "margin": ["stage.margin=true", "data.path={margins}"],
        "label_smoothing": ["stage.label_smoothing=0.3"],
        "batch_sum": ["stage.batch_sum=5"],
        "balance_lengths": ["stage.balance_lengths=20"],
        "residual": ["stage.residual=[length]"],
        "residual_rate": (["stage.residual=[length]"], ["stage.residual_rate=1"]),
        "negatives": ["stage.negatives={swapped: 0.5}"],
        "sampler": (["stage.negatives={sampled: 0.5}", "stage.sampler={base}"], ["stage.sampler={sft}"]),
        "trainer.max_length": ["stage.trainer.max_length=60"],
        "ensemble": (["adapter=lora"], ["stage.ensemble=2"]),
        "average": (["adapter=lora", "stage.ensemble=2"], ["stage.average=8"]),
    },
    "dpo": COMMON
    | OPTIMIZED
    | {
        "beta": ["stage.beta=0.5"],
        "loss": ["stage.loss=[ipo]"],
        "gamma_beta_ratio": (["stage.loss=[simpo]"], ["stage.gamma_beta_ratio=0.1"]),
        "label_smoothing": ["stage.label_smoothing=0.2"],
        "trainer.loss_weights": ["+stage.trainer.loss_weights=[1.0,0.5]"],
        "adapter.rank": (["adapter=lora"], ["adapter.rank=3"]),
        "adapter.alpha": (["adapter=lora"], ["adapter.alpha=3"]),
        "adapter.layers": (["adapter=lora"], ["adapter.layers=1"]),
        "adapter.dropout": (["adapter=lora", "+stage.trainer.disable_dropout=false"], ["adapter.dropout=0.5"]),
    },
    "kto": {
        "beta": ["stage.beta=0.5"],
        "loss": ["stage.loss=apo_zero_unpaired"],
        "desirable_weight": ["stage.desirable_weight=2", "stage.undesirable_weight=1"],
        "undesirable_weight": ["stage.undesirable_weight=2", "stage.desirable_weight=1"],
        "desirable_from": (["data.path={ratings}"], ["stage.desirable_from=2"]),
    },
}  # fmt: skip
FURTHER = ("trainer.loss_weights",)  # of trainers, and not in conf/stage/


def known(stage: str) -> set[str]:
    """Every setting of a stage: fields of its dataclass, keys of its trainer, and for DPO those of the adapter."""
    found = {field.name for field in fields(STAGES[stage])} - {"trainer"}
    trainer = yaml.safe_load((bundled("conf") / "stage" / f"{stage}.yaml").read_text(encoding="utf-8")).get(
        "trainer", {}
    )
    found |= {f"trainer.{key}" for key in trainer}
    if stage == "kto":  # the others have DPO's cases
        return found - known("dpo") | {"beta", "loss"}
    return found | ({f"adapter.{field.name}" for field in fields(Adapter)} if stage == "dpo" else set())


@pytest.mark.parametrize("stage", ["base", "sft", "reward", "dpo", "kto", "ppo"])
def test_every_setting_has_a_case_or_a_reason(stage: str) -> None:
    cases = {name for name in (PPO if stage == "ppo" else TRAINED[stage]) if name in known(stage)}
    others = SAME if stage == "dpo" else SAME | OPTIMIZED
    left_alone = {name for name in known(stage) if name in others or name.removeprefix("adapter.") in others}
    assert not known(stage) - cases - left_alone
    assert not cases & left_alone


@pytest.fixture(scope="module")
def results(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What a tiny run of a stage with these settings computes: weights, logs, final metrics. Equal ones run once."""
    from tests.conftest import composed, tiny_overrides

    rows = [
        {"prompt": f"{number}?", "chosen": "a good answer", "rejected": f"no {number}", "margin": 1.0 + number % 3}
        for number in range(12)
    ]
    margins = tmp_path_factory.mktemp("margins") / "margins.jsonl"
    margins.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    rows = [{"prompt": f"{number}?", "response": f"no {number}", "helpfulness": number % 4} for number in range(12)]
    ratings = margins.with_name("ratings.jsonl")
    ratings.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")

    @cache
    def of(stage: str, *overrides: str) -> str:
        root = tmp_path_factory.mktemp(stage)
        parents = {"base": [], "sft": [f"model.pretrained={chain}/almanac/base"]}
        given = parents.get(stage, [f"stage.policy={chain}/almanac/sft"])
        short = ["stage.sample_prompts=0", "eval_set.prompts=0", "stage.trainer.learning_rate=0.01"]
        places = {"margins": margins, "ratings": ratings, "base": chain / "almanac/base", "sft": chain / "almanac/sft"}
        own = [re.sub("{(margins|ratings|base|sft)}", lambda found: str(places[found[1]]), item) for item in overrides]
        metrics = execute(composed(*tiny_overrides(stage, root), *given, *short, *own), root / "run")
        log = (root / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        return f"{Run.open(root / 'run').manifest['weights']} {log} {metrics}"

    return of


CASES = [(stage, name) for stage, cases in TRAINED.items() for name in cases if name in known(stage) or name in FURTHER]


@pytest.mark.parametrize(("stage", "setting"), CASES)
def test_two_values_two_results(stage: str, setting: str, results: Callable[..., str]) -> None:
    case = TRAINED[stage][setting]
    both, one = case if isinstance(case, tuple) else ([], case)
    both = [*both, *(["data.path={margins}", "data.ceiling=null"] if setting == "margin" else [])]
    assert results(stage, *both) != results(stage, *both, *one)


KEPT = {"missing_eos": "keep"}  # or every response that does not end has the same score
GROUPS: dict[str, Any] = {"advantage": "rloo", "samples": 2, "kl_coef": 0.0} | KEPT


def flat(prompts: Any, completions: Any) -> list[float]:
    """Return a reward that is the same for all responses to most prompts."""
    return [len(text) / 10 if "red" in prompt else 0.0 for prompt, text in zip(prompts, completions, strict=True)]


TEXT = {"ptx_coef": 1.0, "text": [[5, 9, 20, 3], [7, 7, 8, 40]]}
PPO: dict[str, Any] = {
    "value_coef": ({"head": True}, {"value_coef": 0.5}), "value_detached": ({"head": True}, {"value_detached": True}),
    "updates": {"updates": 2}, "batch_size": {"batch_size": 4}, "minibatches": {"minibatches": 3},
    "epochs": {"epochs": 1},
    "learning_rate": {"learning_rate": 1e-3}, "critic_learning_rate": {"critic_learning_rate": 1e-3},
    "adam_epsilon": {"adam_epsilon": 0.1}, "max_grad_norm": {"max_grad_norm": 0.01},
    "warmup_updates": {"warmup_updates": 3},
    "critic_warmup_updates": {"critic_warmup_updates": 1}, "kl_coef": {"kl_coef": 0.5},
    "kl_in": ({"kl_estimator": "k2"}, {"kl_in": "loss"}), "kl_estimator": {"kl_estimator": "k3"},
    "kl_target": {"kl_target": 0.5}, "kl_gain": ({"kl_target": 0.5}, {"kl_gain": 1.0}), "gamma": {"gamma": 0.5},
    "gae_lambda": {"gae_lambda": 0.5}, "clip_low": {"clip_low": 0.01}, "clip_high": {"clip_high": 0.01},
    "dual_clip": ({"learning_rate": 0.3}, {"dual_clip": 1.01}), "value_clip": {"value_clip": 0.001},
    "target_kl": {"target_kl": 1e-4}, "entropy_coef": {"entropy_coef": 0.1}, "loss_mean": {"loss_mean": "response"},
    "whiten_rewards": {"whiten_rewards": True}, "whiten_advantages": {"whiten_advantages": False},
    "temperature": {"temperature": 1.0}, "max_prompt_length": {"max_prompt_length": 2},
    "max_response_length": {"max_response_length": 4}, "missing_eos": {"missing_eos": "keep"},
    "missing_eos_penalty": {"missing_eos_penalty": 0.5}, "normalize_scores": (KEPT, {"normalize_scores": False}),
    "score_clip": (KEPT, {"score_clip": 0.1}),
    "advantage": (GROUPS, {"advantage": "grpo"}), "samples": (GROUPS, {"samples": 3}),
    "ratio": (GROUPS, {"ratio": "token"}),
    "kl_ratio_gradient": ({"kl_in": "loss", "kl_estimator": "k3"}, {"kl_ratio_gradient": True}),
    "equal_groups": (GROUPS | {"reward": flat}, {"equal_groups": "drop"}),
    "resample_rounds": (
        GROUPS | {"reward": flat, "equal_groups": "resample", "resample_rounds": 1}, {"resample_rounds": 3}
    ),
    "ptx_coef": (TEXT, {"ptx_coef": 2.0}), "ptx_batch_size": (TEXT, {"ptx_batch_size": 1}),
    "overlong_buffer": (KEPT, {"overlong_buffer": 4}),
}  # fmt: skip


REPEATED: dict[str, Any] = {}  # settings of a first run -> its result


@pytest.mark.parametrize("setting", PPO)
def test_two_values_two_results_of_ppo(setting: str, new_trainer: Callable[..., Any]) -> None:
    case = PPO[setting]
    both, one = case if isinstance(case, tuple) else ({}, case)

    def result(**overrides: Any) -> Any:
        logged: list[Any] = []
        given = {"updates": 3, "score_mean": 0.2, "score_std": 0.5, "log": lambda metrics, _: logged.append(metrics)}
        if overrides.pop("head", False):
            given["critic"] = ValueHead(16, detached=overrides.get("value_detached", False))
        trainer = new_trainer(**given | overrides)
        trainer.train()
        return [{key: value for key, value in one.items() if "time" not in key} for one in logged], {
            key: value.tolist() for key, value in weights(trainer.policy).items()
        }

    key = repr(both)
    if key not in REPEATED:  # most settings have the same first run
        REPEATED[key] = result(**both)
        assert result(**both) == REPEATED[key]
    first, second = REPEATED[key], result(**both | one)
    assert first[1] != second[1] or first[0] != second[0]
