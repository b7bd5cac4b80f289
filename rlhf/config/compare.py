"""The settings of the comparison."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.config.rules import require, require_not_negative, require_positive
from rlhf.config.stage import Input, Stage


@dataclass(kw_only=True)
class CompareStage(Stage):
    """``models`` maps a column's title to a run directory, a local folder or a Hub id; null leaves a column out.

    ``progression`` is what ``models`` is unless it is given: a whole mapping can be put in the place of a reference
    to another one, while one that stands there could only have its own keys changed.
    """

    progression: dict[str, str | None]
    models: Any
    reference: str
    reward: str | None
    prompts: int
    samples: int
    temperature: float
    batch_size: int
    max_prompt_length: int
    max_response_length: int
    bootstrap: int
    pairs: int
    seeds: str | None
    frontier: str | None
    questions: list[str]

    reads: ClassVar[tuple[str, ...]] = ("prompts", "text", "preferences")
    judged: ClassVar[bool] = True

    def inputs(self) -> dict[str, Input]:
        policies = ("base", "sft", "dpo", "ppo")
        models = {
            # A column of the progression may not be trained yet; one that the user gives is meant to be there.
            title: Input(path, policies, title == self.reference or path != self.progression.get(title))
            for title, path in self.models.items()
            if path is not None
        }
        return models | ({} if self.reward is None else {"reward": Input(self.reward, ("reward",), required=False)})

    def __post_init__(self) -> None:
        numbers = ("prompts", "samples", "temperature", "batch_size", "max_response_length", "bootstrap")
        require_positive("stage", **{name: getattr(self, name) for name in numbers})
        require_not_negative("stage", pairs=self.pairs)
        require(isinstance(self.models, dict), "stage.models", self.models, "map titles to runs, folders or Hub ids")
        given = [title for title, path in self.models.items() if path is not None]
        require(self.reference in given, "stage.reference", self.reference, f"be one of {', '.join(given)}")
        for title, whose in {"reward": "reward model", "judge": "judge"}.items():
            require(title not in given, "stage.models", title, f"leave that title to the {whose}")
