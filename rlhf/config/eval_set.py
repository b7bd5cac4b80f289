"""How a policy is measured at the end of the stages that align one."""

from dataclasses import dataclass

from rlhf.config.rules import require_not_negative, require_positive


@dataclass(kw_only=True)
class HeldOut:
    """Lengths are in tokens; ``prompts=0`` measures nothing."""

    prompts: int
    samples: int
    temperature: float
    batch_size: int
    max_prompt_length: int
    max_response_length: int

    def __post_init__(self) -> None:
        require_not_negative("held_out", prompts=self.prompts)
        names = ("samples", "temperature", "batch_size", "max_prompt_length", "max_response_length")
        require_positive("held_out", **{name: getattr(self, name) for name in names})
