"""How a policy is measured at the end of the stages that align one."""

from dataclasses import dataclass

from rlhf.config.ranges import require_ranges


@dataclass(kw_only=True)
class EvalSet:
    """Lengths are in tokens; ``prompts=0`` measures nothing."""

    prompts: int
    samples: int
    temperature: float
    batch_size: int
    max_prompt_length: int
    max_response_length: int

    def __post_init__(self) -> None:
        require_ranges("eval_set.", self)
