"""The settings of the comparison."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input, Stage
from rlhf.errors import ConfigError


@dataclass(kw_only=True)
class Harness:
    """The tasks of lm-eval-harness that every column is measured on; conf/stage/compare.yaml explains each."""

    tasks: list[str]
    include: str | None
    shots: int | None
    limit: int | None
    chat: bool
    cache: str

    def __post_init__(self) -> None:
        require_ranges("stage.lm_eval.", self)


@dataclass(kw_only=True)
class CompareStage(Stage):
    """Settings of stage=compare. ``models`` maps a column's title to a run directory, a local folder or a Hub id.

    A null instead of a path leaves the column out. ``models`` defaults to a reference to ``progression``, since an
    override replaces a reference with a whole new mapping, but can only change single keys of a mapping.
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
    domains: Any
    lm_eval: Harness

    reads: ClassVar[tuple[str, ...]] = ("prompts", "text", "preferences")

    @property
    def judged(self) -> bool:
        """Whether the results depend on ``judge``."""
        return True

    @property
    def texts(self) -> dict[str, str]:
        """Return name -> file of the texts of each domain."""
        return self.domains or {}

    def inputs(self) -> dict[str, Input]:
        """Return the compared models by column title, and the reward model."""
        policies = ("base", *POLICIES)
        models = {
            # A column of the progression may not be trained yet; a column set by the user must exist.
            title: Input(path, policies, title == self.reference or path != self.progression.get(title))
            for title, path in self.models.items()
            if path is not None
        }
        return models | ({} if self.reward is None else {"reward": Input(self.reward, ("reward",), required=False)})

    def __post_init__(self) -> None:
        require_ranges("stage.", self)
        require(isinstance(self.models, dict), "stage.models", self.models, "map titles to runs, folders or Hub ids")
        for title, path in self.models.items():
            require(isinstance(path, str | None), f"stage.models.{title}", path, "be text: put it in quotes")
        require(isinstance(self.texts, dict), "stage.domains", self.domains, "map names to files of text")
        for name, path in self.texts.items():
            require(isinstance(path, str), f"stage.domains.{name}", path, "be text: put it in quotes")
        given = [title for title, path in self.models.items() if path is not None]
        if self.reference not in given:
            raise ConfigError(
                f"stage.reference={self.reference} is not among stage.models ({', '.join(given)}): "
                f"set stage.reference={given[0]}, or another of them"
                if given
                else "stage.models names no model to compare: set stage.models={title: run}"
            )
        for title, whose in {"reward": "reward model", "judge": "judge"}.items():
            require(title not in given, "stage.models", title, f"not use the title of the {whose}")
