"""The range of every numeric setting: of this package, by dataclass, and of the trainers' arguments.

Ranges are finite and wide: they reject meaningless values (an infinite temperature, a rank of 100,000), not unusual
ones. tests/config/test_ranges.py fails for a numeric setting without a range.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlhf.config.rules import require
from rlhf.errors import ConfigError


class Range(NamedTuple):
    """Interval from ``low`` to ``high``; a bound is included unless it is open."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: Any) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def rule(self, value: float) -> str:
        """Return the rule that ``value``, which is outside, violates."""
        if self.low >= 0 >= value and (self.low > 0 or self.open_low):
            return "be positive"
        if self.high <= 0 and self.open_high and math.isfinite(value):
            return "be negative"
        return "not be negative" if self.low == 0 > value and math.isfinite(value) else f"lie in {self}"

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:.10g}, {self.high:.10g}{')' if self.open_high else ']'}"


def above(low: float, high: float) -> Range:
    """Return the interval (low, high]."""
    return Range(low, high, open_low=True)


def below(low: float, high: float) -> Range:
    """Return the interval [low, high)."""
    return Range(low, high, open_high=True)


COUNT, COUNT_OR_NONE = Range(1, 1e9), Range(0, 1e9)
ROWS = Range(1, 65536)  # rows per forward pass
LENGTH = Range(1, 1e7)  # tokens
TEMPERATURE = Range(1e-3, 100)
RATE = Range(1e-12, 10)  # learning rate
SHARE, SHARE_BELOW, PROPER_SHARE = Range(0, 1), below(0, 1), Range(0, 1, True, True)
SECONDS, TRIES = above(0, 86400), Range(1, 1000)
SMOOTHING = below(0, 0.5)
SAMPLING = {"temperature": TEMPERATURE, "batch_size": ROWS, "max_prompt_length": LENGTH, "max_response_length": LENGTH}
DRAWS = Range(1, 10000)  # responses per prompt

OURS: dict[str, dict[str, Range]] = {
    "Settings": {"seed": below(0, 2**32)},
    "Source": {"limit": COUNT, "held_out_limit": COUNT},
    "Pairing": {"score_ratio": Range(1, 1e6)},
    "Data": {"holdout": above(0, 1), "processes": Range(1, 1024)},
    "Adapter": {
        "rank": Range(1, 4096), "layers": Range(1, 10000), "alpha": Range(1, 1e6), "dropout": SHARE_BELOW,
        "learning_rate_factor": above(0, 1000),
    },
    "Hardware": {
        "threads": Range(1, 4096), "processes": Range(1, 4096), "nodes": Range(1, 65536), "node_rank": Range(0, 65535),
    },
    "Judge": {
        "limit": COUNT, "timeout": SECONDS, "attempts": TRIES, "workers": Range(1, 1024), "max_tokens": LENGTH,
        "price_prompt": Range(0, 1e6), "price_response": Range(0, 1e6), "budget": above(0, 1e6),
        "budget_calls": COUNT, "budget_tokens": Range(1, 1e12),
        "batch_size": ROWS, "max_length": LENGTH,
    },
    "EvalSet": {"prompts": COUNT_OR_NONE, "samples": DRAWS, **SAMPLING},
    "TrainedStage": {"sample_every": COUNT_OR_NONE, "sample_prompts": Range(0, 10000), "sample_length": LENGTH},
    "BaseStage": {"block_length": Range(8, 1e6)},
    "CardStage": {
        "probe_rows": COUNT_OR_NONE, "tfidf_pairs": COUNT, "calibration_bins": TRIES, "bootstrap": Range(1, 1e6),
        "statistics_prompts": Range(2, 1e9), "statistics_temperature": TEMPERATURE,
        "autopsies": Range(0, 1000),
    },
    "TrainerStage": {"early_stopping": COUNT},
    "RewardStage": {
        "label_smoothing": SMOOTHING, "batch_sum": Range(0, 1000), "average": Range(1, 65536), "ensemble": Range(1, 64),
        "distance_rows": COUNT_OR_NONE, "balance_lengths": COUNT, "residual_rate": RATE,
    },
    "EvaluateRewardStage": {"sample_length": LENGTH, "max_length": LENGTH, "batch_size": ROWS, "scale": Range(2, 100)},
    "PreferenceStage": {"beta": Range(1e-6, 1000)},
    "DPOStage": {"gamma_beta_ratio": Range(0, 100), "label_smoothing": SMOOTHING},
    "KTOStage": {
        "desirable_weight": above(0, 1e6), "undesirable_weight": above(0, 1e6), "desirable_from": Range(-1e9, 1e9),
    },
    "InspectStage": {
        "max_length": LENGTH, "examples": Range(0, 1e6), "near_duplicates": COUNT_OR_NONE, "similarity": above(0, 1),
        "languages": COUNT_OR_NONE,
    },
    "CompareStage": {
        "prompts": COUNT, "samples": DRAWS, "bootstrap": Range(1, 1e6), "pairs": Range(0, 1e6), **SAMPLING,
    },
    "Harness": {"shots": Range(0, 1000), "limit": COUNT},
    "LadderStage": {"budget": COUNT},
    "SampleStage": {"prompts": COUNT, "samples": DRAWS, "stream": COUNT_OR_NONE, **SAMPLING},
    "OnlineDPOStage": {"rounds": TRIES, "prompts": COUNT, "samples": Range(2, 10000), **SAMPLING},
    "RAFTStage": {"prompts": COUNT, "samples": DRAWS, **SAMPLING},
    "LabelStage": {"pairs": COUNT, "limit": COUNT, "annotators": TRIES, "port": Range(0, 65535)},
    "ChatStage": {
        "temperature": Range(0, 100), "max_prompt_length": LENGTH, "max_response_length": LENGTH,
        "port": Range(0, 65535),
    },
    "WatchStage": {"every": SECONDS, "port": Range(0, 65535)},
    "PlanStage": {
        "memory_gib": above(0, 1e6), "tflops": above(0, 1e6), "bandwidth": above(0, 1e7), "gpus": Range(1, 1e6),
        "headroom": SHARE_BELOW, "mfu": above(0, 1), "mbu": above(0, 1), "tokens_per_second": above(0, 1e12),
        "probe_seconds": SECONDS,
    },
    "MergeStage": {"weights": Range(-1000, 1000), "rank": ROWS},
    "ExportStage": {"prompts": DRAWS, "max_prompt_length": LENGTH, "max_response_length": LENGTH},
    "PublishStage": {"samples": Range(0, 10000), "attempts": TRIES, "wait": Range(0, 86400)},
    "PPOStage": {
        "updates": COUNT, "batch_size": Range(1, 1e6), "minibatches": Range(1, 1e6), "micro_batch_size": ROWS,
        "micro_batch_tokens": COUNT, "epochs": TRIES, "learning_rate": RATE, "critic_learning_rate": RATE,
        "adam_epsilon": Range(1e-16, 1), "max_grad_norm": above(0, 1e9), "warmup_updates": COUNT_OR_NONE,
        "critic_warmup_updates": COUNT_OR_NONE, "value_coef": above(0, 1000), "kl_coef": Range(0, 1000),
        "kl_target": above(0, 1e4), "kl_gain": above(0, 10), "gamma": SHARE, "gae_lambda": SHARE,
        "samples": DRAWS, "resample_rounds": Range(1, 1000), "overlong_buffer": LENGTH,
        "clip_low": above(0, 1), "clip_high": above(0, 100), "dual_clip": above(1, 1e4), "value_clip": above(0, 1e4),
        "target_kl": above(0, 1000), "entropy_coef": Range(0, 1000), "importance_cap": Range(1, 1e4),
        "temperature": TEMPERATURE, "max_prompt_length": LENGTH, "max_response_length": LENGTH,
        "missing_eos_penalty": Range(0, 1e4), "score_clip": above(0, 1e4), "save_every": COUNT, "log_every": COUNT,
        "keep_every": COUNT, "ledger": Range(1, 1000), "ema": PROPER_SHARE, "ptx_coef": Range(0, 1e4),
        "ptx_batch_size": ROWS, "ptx_block_length": Range(2, 1e6), "distance_coef": Range(0, 1e4),
    },
    "RolloutSettings": {"rows": COUNT, "vllm_memory": PROPER_SHARE},
    "SentinelSettings": {
        "rollbacks": Range(0, 1000), "rollback_factor": PROPER_SHARE, "window": Range(1, 1e6), "grace": COUNT_OR_NONE,
        "start_error": above(0, 1000), "start_error_half": above(0, 1000), "approx_kl_max": above(0, 1000),
        "explained_variance": below(-1e6, 1), "kl_max": above(0, 1e6), "kl_min": below(-1e6, 0), "eos_rate_min": SHARE,
        "length_growth": above(0, 1e4), "length_correlation": SHARE, "repetition": SHARE, "entropy_share": SHARE,
        "gold_fall": above(0, 1e6), "distinct": SHARE, "equal_groups": SHARE, "far": SHARE,
    },
    "RewardTermSettings": {"weight": Range(-1e6, 1e6), "timeout": SECONDS},
    "NumberTerm": {"absolute": Range(0, 1e12), "relative": SHARE},
    "JudgeTerm": {"scale": Range(2, 100), "pairs": COUNT_OR_NONE},
    "EnsembleTerm": {"deviations": Range(0, 100)},
    "RemoteTerm": {
        "batch_size": ROWS, "timeout": SECONDS, "attempts": TRIES, "backoff": Range(0, 86400),
        "longest_wait": Range(0, 86400),
    },
    "LengthTerm": {"min": COUNT_OR_NONE, "max": COUNT_OR_NONE},
    "FormatTerm": {"max_words": COUNT},
}  # fmt: skip

EVERY = above(0, 1e9)  # steps; below 1: a share of all steps
TRAINER: dict[str, Range] = {
    "per_device_train_batch_size": ROWS, "per_device_eval_batch_size": ROWS, "gradient_accumulation_steps": ROWS,
    "num_train_epochs": above(0, 1e4), "max_steps": Range(1, 1e9), "learning_rate": Range(0, 10),
    "warmup_steps": COUNT_OR_NONE, "weight_decay": Range(0, 10), "adam_beta1": SHARE_BELOW, "adam_beta2": SHARE_BELOW,
    "adam_epsilon": Range(1e-16, 1), "max_grad_norm": Range(0, 1e9), "label_smoothing_factor": SHARE_BELOW,
    "neftune_noise_alpha": above(0, 1000), "torch_empty_cache_steps": COUNT, "logging_steps": EVERY,
    "eval_steps": EVERY, "save_steps": EVERY, "eval_delay": COUNT_OR_NONE, "eval_accumulation_steps": COUNT,
    "dataloader_num_workers": Range(0, 1024), "dataloader_prefetch_factor": Range(1, 1024),
    "ddp_bucket_cap_mb": Range(1, 1e6), "ddp_timeout": Range(1, 1e7), "max_length": LENGTH, "pad_to_multiple_of": ROWS,
    "router_aux_loss_coef": Range(0, 1000), "center_rewards_coefficient": Range(0, 1000),
    "precompute_ref_batch_size": ROWS, "loss_weights": Range(-1000, 1000), "ld_alpha": SHARE,
    "f_alpha_divergence_coef": Range(-1000, 1000), "discopop_tau": above(0, 1000), "ref_model_mixup_alpha": SHARE,
    "ref_model_sync_steps": COUNT,
}  # fmt: skip
SPECIAL = {"max_steps": (-1,)}  # values outside the range with a special meaning

# Arguments of the trainers that would break a guarantee of this package, or that another setting decides.
HUB = "stage=publish uploads, and looks for secrets before it does"
DEVICES, TRACKED = "hardware= decides it", "tracker= decides it"
COMPILED = "compiled models fail in stage=dpo and are not tested in the other stages"
ROWS_ARE_READY = "the rows are already token ids"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy"), HUB),
    **dict.fromkeys(("hub_always_push", "hub_revision"), HUB),
    "ignore_data_skip": "a resumed run would see other rows than an uninterrupted one",
    "save_only_model": "a run could not be resumed from its checkpoints",
    "save_on_each_node": "only one process writes a run",
    "enable_jit_checkpoint": "resume=true needs checkpoints at whole steps",
    "resume_from_checkpoint": "resume=true does it",
    "do_train": "stage= decides it", "do_eval": "stage= decides it", "do_predict": "stage= decides it",
    "load_best_model_at_end": "stage.early_stopping does it",
    "auto_find_batch_size": "hardware.oom_retry does it with the same gradient",
    **dict.fromkeys(("local_rank", "fsdp", "fsdp_config", "deepspeed", "ddp_backend"), DEVICES),
    **dict.fromkeys(("parallelism_config", "accelerator_config"), DEVICES),
    **dict.fromkeys(("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), TRACKED),
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), COMPILED),
    "trust_remote_code": "model.trust_remote_code decides it",
    "model_init_kwargs": "model.dtype and model.attention decide it",
    "chat_template_path": "model.chat_template decides it",
    **dict.fromkeys(("eos_token", "pad_token", "dataset_text_field", "dataset_num_proc"), ROWS_ARE_READY),
}  # fmt: skip


def require_ranges(prefix: str, node: Any) -> None:
    """Raise ConfigError if a number of the dataclass ``node`` is outside its range; null is always allowed."""
    for kind in reversed(type(node).__mro__):
        for name, allowed in OURS.get(kind.__name__, {}).items():
            value = getattr(node, name)
            for one in value if isinstance(value, list) else [value]:
                require(one is None or one in allowed, f"{prefix}{name}", one, allowed.rule(one or 0))


def require_trainer(trainer: Mapping[str, Any]) -> None:
    """Check the arguments in ``stage.trainer``.

    Raises:
        ConfigError: a number is outside its range, another setting decides an argument, or the warm-up of the
            learning rate is longer than the training.
    """
    for name, value in trainer.items():
        key = f"stage.trainer.{name}"
        if name in REFUSED:
            raise ConfigError(f"{key} cannot be set, since {REFUSED[name]}: leave it out")
        allowed = TRAINER.get(name)
        for one in value if isinstance(value, list) else [value]:
            number = isinstance(one, int | float) and not isinstance(one, bool)
            if allowed is not None and number and one not in SPECIAL.get(name, ()):
                require(one in allowed, key, one, allowed.rule(one))
    warmup, steps = trainer.get("warmup_steps") or 0, trainer.get("max_steps") or 0
    if isinstance(warmup, int | float) and isinstance(steps, int):
        require_warmup(warmup, steps)


def require_warmup(warmup: float, steps: int) -> None:
    """Raise ConfigError if the warm-up is longer than the training, both in steps."""
    if 0 < steps < warmup:
        raise ConfigError(
            f"stage.trainer.warmup_steps={warmup:g} is longer than the training, whose last step is {steps}, so the "
            "learning rate would never be reached: lower it, or set a share below 1"
        )
