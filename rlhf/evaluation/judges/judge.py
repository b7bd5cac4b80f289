"""Judges, which decide which of two responses is better: a reward, or a language model, here or behind an endpoint.

A judge is (prompts, firsts, seconds) -> preferences for the first: 1, ½ for a tie, 0, or between; None without a
verdict. A language model is asked in both orders, because it has a position bias (Zheng et al. 2023,
https://arxiv.org/abs/2306.05685, section 3.3); a preference that changes with the order is a tie.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Protocol

import torch

from rlhf.data.render import Prompt, prompt_ids, question
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.foreign import positions
from rlhf.rewards import RewardFunction, checked
from rlhf.rewards.spending import Spending
from rlhf.storage.paths import bundled

VALUES = {"A": 1.0, "TIE": 0.5, "B": 0.0}
PAIR = ("prompt", "first", "second", "mark")  # placeholders of a question about a pair
RESPONSE = ("prompt", "response", "scale", "mark")  # of a question about one response


class Judge(Protocol):
    """Anything that compares responses."""

    def __call__(
        self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[float | None]: ...

    def report(self) -> dict[str, float]:
        """Return the cost and the reliability of the judging, as metrics of the run."""
        ...


class RewardJudge:
    """A reward as a judge: the response with the higher score wins; equal scores tie."""

    def __init__(self, reward: RewardFunction):
        self.reward = reward
        self.margins: list[float] = []  # of the last call: score of the first - score of the second

    def __call__(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        texts = [*firsts, *seconds]
        scores = checked(self.reward([*prompts, *prompts], texts), texts)  # in one call, to compute a prompt once
        self.margins = [a - b for a, b in zip(scores[: len(firsts)], scores[len(firsts) :], strict=True)]
        return [float(margin > 0) + 0.5 * float(margin == 0) for margin in self.margins]

    def report(self) -> dict[str, float]:
        """Return no metrics: a reward costs nothing and is consistent."""
        return {}


class LanguageJudge(Protocol):
    """A language model that answers questions, and compares responses with the question ``text``."""

    text: Template

    def ask(self, questions: Sequence[str], form: "Form") -> list[float | None]:
        """Return the value of the reply to each question; None without one."""
        ...

    def compare(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        """Return the preferences for the first responses, from both orders; None without one."""
        ...


class Form(NamedTuple):
    """The replies to a question: the words that a model may answer, each with its value, and the reader of a reply."""

    words: Mapping[str, float]
    read: Callable[[str], float | None]


def template_file(name: str) -> Path | None:
    """Return the file of a template: one of conf/judge by its name, or any file by its path; None without one."""
    return next((path for path in (bundled("conf") / "judge" / f"{name}.txt", Path(name)) if path.is_file()), None)


def template(name: str, key: str = "judge.template", needed: Sequence[str] = PAIR) -> Template:
    """Return the question of a judge, a file with the placeholders ``needed``; ``key`` is the setting that names it.

    Raises:
        ConfigError: the file does not exist, or lacks a placeholder.
    """
    path = template_file(name)
    if path is None:
        usual = "pairwise" if needed == PAIR else "helpful"
        raise ConfigError(f"{key}={name} is neither a file nor {usual}: set a file with ${', $'.join(needed)}")
    found = Template(path.read_text(encoding="utf-8"))
    if set(found.get_identifiers()) != set(needed) or not found.is_valid():
        raise ConfigError(
            f"{key}={name} must have the placeholders ${', $'.join(needed)} and no other $: correct it, with each text "
            "between markers with $mark"
        )
    return found


def asked(text: Template, prompt: Prompt, first: str, second: str) -> str:
    """Return the question about one pair. The texts are inserted unchanged; placeholders in them are not expanded.

    ``$mark`` is a hash of the three texts. It is the same in every run, so that cached replies are found, and no text
    can contain it to close its markers early, since it would have to contain its own hash.
    """
    shown = turns(prompt)
    return text.substitute(prompt=shown, first=first, second=second, mark=mark(shown, first, second))


def asked_about(text: Template, prompt: Prompt, response: str, scale: int) -> str:
    """Return the question about one response, like `asked`."""
    shown = turns(prompt)
    return text.substitute(prompt=shown, response=response, scale=scale, mark=mark(shown, response))


def turns(prompt: Prompt) -> str:
    """Return a prompt as text, with the roles of a conversation of several turns."""
    if isinstance(prompt, str):
        return prompt
    return question(prompt) if len(prompt) == 1 else "\n\n".join(f"{one['role']}: {one['content']}" for one in prompt)


def mark(*texts: str) -> str:
    """Return the random-looking delimiter of a question about ``texts``."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def verdict(answer: str) -> float | None:
    """Return 1 for A, 0 for B, ½ for a tie, None for anything else, by the last line of the reply.

    The line must be one word, or end with its only word in [[ ]]. Earlier lines, such as a quoted response, do not
    count, and neither does a letter within a text.
    """
    lines = [line for line in answer.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    marked = re.findall(r"\[\[\s*(A|B|TIE)\s*\]\]", last, flags=re.IGNORECASE)
    ends = re.search(r"\]\]\W*$", last) is not None
    word = marked[0] if ends and len(marked) == 1 else re.sub(r"[^A-Za-z]", "", last)
    return VALUES.get(word.upper())


def points(answer: str, scale: int) -> float | None:
    """Return the number from 1 to ``scale`` in the last line of the reply, mapped to [0, 1]; None without one.

    The line must have only one number, besides "/scale" or "out of scale", or one in [[ ]].
    """
    lines = [line for line in answer.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    number = r"-?\d+(?:\.\d+)?"
    found = re.findall(rf"\[\[\s*({number})\s*\]\]", last)
    found = found or re.findall(number, re.sub(rf"\s*(?:/|out of)\s*{scale}\b", "", last))
    value = float(found[0]) if len(found) == 1 else 0.0
    return (value - 1) / (scale - 1) if 1 <= value <= scale else None


CHOICE = Form({"A": 1.0, "B": 0.0}, verdict)


def score_of(scale: int) -> Form:
    """Return the form of a score from 1 to ``scale``, with values from 0 to 1."""
    words = {str(number): (number - 1) / (scale - 1) for number in range(1, scale + 1)}
    return Form(words, lambda answer: points(answer, scale))


def both_orders(forwards: float | None, backwards: float | None) -> float | None:
    """Return the preference for the first response from both orders; ``backwards`` is the one for the second."""
    if forwards is None or backwards is None:
        return None
    return (forwards + 1 - backwards) / 2


class LocalJudge:
    """A language model on this machine: the probability that it answers A, given A or B, averaged over both orders.

    p = (p(A | first, second) + p(B | second, first)) / 2

    A score is the mean over the probabilities of its numbers, as in G-Eval (Liu et al. 2023,
    https://arxiv.org/abs/2303.16634, section 2). Nothing is cached: the last bits depend on the batch, and with a cache
    they would depend on earlier runs.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        text: Template,
        *,
        max_length: int,
        batch_size: int,
        spending: Spending | None = None,
    ):
        self.spending = spending
        self.model, self.tokenizer, self.text = model.eval(), tokenizer, text
        most = positions(model)
        self.max_length, self.batch_size = max_length if most is None else min(max_length, most), batch_size
        self.consistent: list[bool] = []
        self.too_long = 0

    def __call__(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        return self.compare(prompts, firsts, seconds)

    def compare(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        """Return the preferences for the first responses, from both orders; None for questions that are too long."""
        whole = list(zip(prompts, firsts, seconds, strict=True))
        forwards = self.ask([asked(self.text, *pair) for pair in whole], CHOICE)
        backwards = self.ask([asked(self.text, prompt, second, first) for prompt, first, second in whole], CHOICE)
        for a, b in zip(forwards, backwards, strict=True):
            if a is not None and b is not None:
                self.consistent.append((a > 0.5) != (b > 0.5))
        found = [both_orders(a, b) for a, b in zip(forwards, backwards, strict=True)]
        self.too_long += sum(value is None for value in found)
        return found

    def ask(self, questions: Sequence[str], form: Form) -> list[float | None]:
        """Return the expected value of the reply to each question; None if it is too long. Equal ones are asked once.

        Raises:
            ModelError: the words of ``form`` are not different tokens.
            TrainingError: a budget of ``judge`` is spent.
        """
        distinct = list(dict.fromkeys(questions))
        values = dict(zip(distinct, self._ask(distinct, form), strict=True))
        return [values[text] for text in questions]

    @torch.no_grad()
    def _ask(self, questions: Sequence[str], form: Form) -> list[float | None]:
        words = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in form.words]
        # Some tokenizers put a token for the blank before the first word.
        ends = [word[-1] for word in words]
        if len(set(ends)) < len(ends):
            raise ModelError(f"judge.model has no separate tokens for {', '.join(form.words)}: set another model")
        plain = self.tokenizer.chat_template is None
        prompts = [text if plain else [{"role": "user", "content": text}] for text in questions]
        rows = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        order = sorted((i for i in range(len(rows)) if len(rows[i]) <= self.max_length), key=lambda i: len(rows[i]))
        worth = torch.tensor(list(form.words.values()))
        found: list[float | None] = [None] * len(rows)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            if self.spending is not None:
                self.spending.ask(len(chosen))
                self.spending.add(prompt_tokens=sum(len(rows[i]) for i in chosen))
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, padding_side="right", return_tensors="pt"
            ).to(self.model.device)
            likely = self._behind(batch)[:, ends].float().softmax(-1)
            for i, value in zip(chosen, (likely.cpu() * worth).sum(-1).tolist(), strict=True):
                found[i] = value
        return found

    def _behind(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits (B, V) after the last token of each row; the head reads only these positions if it can."""
        last = batch["attention_mask"].sum(-1) - 1
        rows = torch.arange(len(last), device=last.device)
        if "logits_to_keep" not in inspect.signature(self.model.forward).parameters:
            return self.model(**batch, use_cache=False).logits[rows, last]
        kept, place = last.unique(return_inverse=True)
        return self.model(**batch, use_cache=False, logits_to_keep=kept).logits[rows, place]

    def report(self) -> dict[str, float]:
        """Return the number of pairs that were too long, and the consistency."""
        return {"judge/too_long": float(self.too_long)} | consistency(self.consistent)


def consistency(agree: Sequence[bool]) -> dict[str, float]:
    """Return the share of pairs with the same verdict in both orders; ½ for a random judge."""
    return {"judge/consistent": sum(agree) / len(agree)} if agree else {}
