"""The settings of the measurement of a policy at the end of stage=dpo, stage=kto and stage=ppo."""

from dataclasses import dataclass

from rlhf.config.ranges import require_ranges


@dataclass(kw_only=True)
class EvalSet:
    """Sampling settings of the measurement. Lengths are in tokens; ``prompts=0`` skips it."""

    prompts: int
    samples: int
    temperature: float
    batch_size: int
    max_prompt_length: int
    max_response_length: int

    def __post_init__(self) -> None:
        require_ranges("eval_set.", self)
