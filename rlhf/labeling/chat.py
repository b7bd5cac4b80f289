"""Answers of policies to a conversation, for stage=chat: models are loaded when they are first asked, and kept."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.config import ChatStage, Input, Model, Settings
from rlhf.config.stage import POLICIES
from rlhf.data.render import Message, Prompt, question
from rlhf.data.templates import STAND_IN
from rlhf.hardware.device import torch_device
from rlhf.modeling import loading
from rlhf.modeling.generation import stream
from rlhf.rewards import RewardModel
from rlhf.runs.parents import Parent, find_parent
from rlhf.storage.manifest import read_manifest

LATEST = (*reversed(POLICIES), "base")


class StoppedError(Exception):
    """Raised while an answer is shown, to end it."""


class Answer(NamedTuple):
    """The text of an answer, its reward if there is a reward model, and how it ended: EOS, the limit or a stop."""

    text: str
    score: float | None
    ended: bool
    stopped: bool


class Policy(NamedTuple):
    """A loaded policy and its limits in tokens. One that ``talks`` answers conversations, others continue a text."""

    model: Any
    tokenizer: Any
    talks: bool
    max_prompt_length: int
    max_response_length: int

    def prompt(self, talk: Sequence[Message]) -> Prompt:
        """Return the prompt for the last message of ``talk``."""
        return list(talk) if self.talks else talk[-1]["content"]


class Chat:
    """Policies by name, which is a stage of the chain, or the path of a run, a folder, a GGUF file or a Hub id."""

    def __init__(self, settings: Settings, overrides: Sequence[str] = (), reward: Parent | None = None):
        self.settings, self.overrides, self._reward = settings, overrides, reward
        self.stage = settings.stage_as(ChatStage)
        self.asked = 0  # answers so far: the seed of the next one
        self._policies: dict[str, Policy] = {}
        self._scorer: RewardModel | None = None

    def available(self) -> list[str]:
        """Return the stages of the chain that have a policy, the latest first."""
        return [name for name in LATEST if read_manifest(Path(self._place(name))) is not None]

    def find(self, name: str) -> Parent:
        """Return the policy ``name`` without loading it.

        Raises:
            RlhfError: it does not exist, or is not a policy.
        """
        wanted = Input(self._place(name), LATEST)
        parent = find_parent("policies", wanted, self.settings, self.overrides)
        assert parent is not None  # it is required
        loading.check(parent, self.settings)
        return parent

    def _place(self, name: str) -> str:
        return str(Path(self.settings.checkpoints) / self.settings.name / name) if name in LATEST else name

    def policy(self, name: str) -> Policy:
        """Return the policy ``name``, loaded on the first call."""
        if name not in self._policies:
            parent = self.find(name)
            model = settings_of(parent, self.settings.model)
            tokenizer = loading.load_tokenizer(parent, model)
            found = loading.load_policy(parent, model, tokenizer).to(torch_device(self.settings.hardware)).eval()
            talks = tokenizer.chat_template is not None and parent.stage != "base"
            tokenizer.strings_are_turns = talks
            self._policies[name] = Policy(found, tokenizer, talks, *self._limits(found))
        return self._policies[name]

    def _limits(self, model: Any) -> tuple[int, int]:
        """Return the tokens of prompt and response: the settings, or less if both exceed the model's context."""
        prompt, response = self.stage.max_prompt_length, self.stage.max_response_length
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or prompt + response
        if prompt + response <= context:
            return prompt, response
        response = min(response, context // 2)
        return context - response, response

    def answer(self, name: str, talk: Sequence[Message], temperature: float, show: Callable[[str], None]) -> Answer:
        """Return the answer of a policy to the last message of ``talk``; ``show`` receives each piece of its text.

        KeyboardInterrupt, or StoppedError raised by ``show``, ends the answer, which keeps the shown text.
        """
        policy, pieces = self.policy(name), []
        prompt = policy.prompt(talk)
        self.asked += 1

        def heard(piece: str) -> None:
            pieces.append(piece)
            show(piece)

        try:
            found = stream(
                policy.model,
                policy.tokenizer,
                prompt,
                heard,
                max_prompt_length=policy.max_prompt_length,
                max_response_length=policy.max_response_length,
                temperature=temperature,
                seed=self.settings.seed + self.asked,
            )
        except (KeyboardInterrupt, StoppedError):
            return Answer("".join(pieces), None, ended=False, stopped=True)
        return Answer(found.text, self.score(prompt, found.text), found.ended, stopped=False)

    def score(self, prompt: Prompt, text: str) -> float | None:
        """Return the reward of an answer; None without a reward model, or if it reads no conversations."""
        if self._reward is None:
            return None
        if self._scorer is None:
            model = settings_of(self._reward, self.settings.model)
            tokenizer = loading.load_tokenizer(self._reward, model)
            reward = loading.load_reward_model(self._reward, model, tokenizer, new_head="refused")
            self._scorer = RewardModel(reward.to(torch_device(self.settings.hardware)), tokenizer, max_length=None)
        if self._scorer.tokenizer.chat_template is None and not isinstance(prompt, str):
            return self._scorer([question(prompt)], [text])[0] if len(prompt) == 1 else None
        return self._scorer([prompt], [text])[0]


def settings_of(parent: Parent, model: Model) -> Model:
    """Return the settings that load a run as it was trained; a model from elsewhere may need a template to talk.

    ``model.chat_template`` of a model from random weights has tokens that no other model knows.
    """
    if parent.manifest is not None:
        return parent.as_trained(model)
    return replace(model, chat_template=STAND_IN) if model.path is None else model


def remarks(answer: Answer) -> str:
    """Return the reward of an answer, and how it ended if not with EOS."""
    end = "stopped" if answer.stopped else "" if answer.ended else "cut at the limit"
    empty = "" if answer.text or answer.stopped else "empty answer"
    score = "" if answer.score is None else f"reward {answer.score:.3f}"
    return ", ".join(part for part in (score, empty, end) if part)
