"""The settings of the judge that decides which of two responses is better."""

from dataclasses import dataclass
from enum import Enum

from rlhf.config.ranges import require_ranges
from rlhf.config.rules import require
from rlhf.config.stage import POLICIES, Input
from rlhf.errors import ConfigError


class JudgeKind(Enum):
    """Kind of the judge."""

    none = "none"
    function = "function"  # a RewardFunction by its import path
    reward = "reward"  # a reward model
    local = "local"  # a language model on this machine
    endpoint = "endpoint"  # a language model behind an OpenAI-compatible endpoint
    person = "person"  # people, in the browser


NEEDS = {
    JudgeKind.function: "function",
    JudgeKind.reward: "model",
    JudgeKind.local: "model",
    JudgeKind.endpoint: "model",
}


@dataclass(kw_only=True)
class Judge:
    """Settings of the judge; conf/judge/none.yaml explains each."""

    kind: JudgeKind
    function: str | None
    model: str | None
    template: str
    limit: int | None
    url: str | None
    key_variable: str
    timeout: float
    attempts: int
    workers: int
    max_tokens: int
    price_prompt: float
    price_response: float
    budget: float | None
    cache: str
    batch_size: int
    max_length: int

    def inputs(self) -> dict[str, Input]:
        """Return the run or model that judges; an endpoint's model is not an input."""
        if self.kind is JudgeKind.reward:
            return {"judge": Input(self.model or "", ("reward",))}
        if self.kind is JudgeKind.local:
            return {"judge": Input(self.model or "", POLICIES)}
        return {}

    def __post_init__(self) -> None:
        require_ranges("judge.", self)
        priced = self.budget is None or self.price_prompt > 0 or self.price_response > 0
        require(priced, "judge.budget", self.budget, "be set together with judge.price_prompt or judge.price_response")
        needed = NEEDS.get(self.kind)
        if needed is not None and not getattr(self, needed):
            raise ConfigError(f"judge={self.kind.value} needs judge.{needed}: set judge.{needed}=...")
        if self.kind is JudgeKind.endpoint:
            known = self.url is not None and self.url.startswith(("http://", "https://"))
            require(known, "judge.url", self.url, "be an address such as https://api.openai.com/v1")
