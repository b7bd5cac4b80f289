"""Judges, which decide which of two responses is better: a reward, or a language model, here or behind an endpoint.

A judge is (prompts, firsts, seconds) -> preferences for the first: 1, ½ for a tie, 0, or between; None without a
verdict. A language model is asked in both orders, because it has a position bias (Zheng et al. 2023,
https://arxiv.org/abs/2306.05685, section 3.3); a preference that changes with the order is a tie.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, Protocol

import torch

from rlhf.data.render import Prompt, prompt_ids, question
from rlhf.errors import ConfigError
from rlhf.modeling.foreign import positions
from rlhf.rewards import RewardFunction, checked
from rlhf.storage.paths import bundled

VALUES = {"A": 1.0, "TIE": 0.5, "B": 0.0}


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
        scores = [checked(self.reward(prompts, texts), texts) for texts in (firsts, seconds)]
        self.margins = [a - b for a, b in zip(*scores, strict=True)]
        return [float(margin > 0) + 0.5 * float(margin == 0) for margin in self.margins]

    def report(self) -> dict[str, float]:
        """Return no metrics: a reward costs nothing and is consistent."""
        return {}


def template(name: str) -> Template:
    """Return the prompt template of a judge: a file of conf/judge by its name, or any file by its path.

    Raises:
        ConfigError: the file does not exist, or lacks one of $prompt, $first, $second and $mark.
    """
    path = next((path for path in (bundled("conf") / "judge" / f"{name}.txt", Path(name)) if path.is_file()), None)
    if path is None:
        raise ConfigError(
            f"judge.template={name} is neither a file nor pairwise: set a file with $prompt, $first, $second and $mark"
        )
    found = Template(path.read_text(encoding="utf-8"))
    missing = {"prompt", "first", "second", "mark"} - set(found.get_identifiers())
    if missing or not found.is_valid():
        raise ConfigError(
            f"judge.template={name} lacks ${', $'.join(sorted(missing))}: add them, each text between markers with "
            "$mark"
        )
    return found


def asked(text: Template, prompt: Prompt, first: str, second: str) -> str:
    """Return the question about one pair. The texts are inserted unchanged; placeholders in them are not expanded.

    ``$mark`` is a hash of the three texts. It is the same in every run, so that cached replies are found, and no text
    can contain it to close its markers early, since it would have to contain its own hash.
    """
    shown = prompt if isinstance(prompt, str) else "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
    shown = shown if len(prompt) != 1 else question(prompt)
    mark = hashlib.sha256(json.dumps([shown, first, second]).encode()).hexdigest()[:16]
    return text.substitute(prompt=shown, first=first, second=second, mark=mark)


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


def both_orders(forwards: float | None, backwards: float | None) -> float | None:
    """Return the preference for the first response from both orders; ``backwards`` is the one for the second."""
    if forwards is None or backwards is None:
        return None
    return (forwards + 1 - backwards) / 2


class LocalJudge:
    """A language model on this machine: the probability that it answers A, given A or B, averaged over both orders.

    p = (p(A | first, second) + p(B | second, first)) / 2
    """

    def __init__(self, model: Any, tokenizer: Any, text: Template, *, max_length: int, batch_size: int):
        self.model, self.tokenizer, self.text = model.eval(), tokenizer, text
        most = positions(model)
        self.max_length, self.batch_size = max_length if most is None else min(max_length, most), batch_size
        self.letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "AB"]
        self.consistent: list[bool] = []
        self.too_long = 0

    def __call__(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[float | None]:
        whole = list(zip(prompts, firsts, seconds, strict=True))
        forwards = self._ask([asked(self.text, *pair) for pair in whole])
        backwards = self._ask([asked(self.text, prompt, second, first) for prompt, first, second in whole])
        for a, b in zip(forwards, backwards, strict=True):
            if a is not None and b is not None:
                self.consistent.append((a > 0.5) != (b > 0.5))
        found = [both_orders(a, b) for a, b in zip(forwards, backwards, strict=True)]
        self.too_long += sum(value is None for value in found)
        return found

    @torch.no_grad()
    def _ask(self, questions: Sequence[str]) -> list[float | None]:
        plain = self.tokenizer.chat_template is None
        prompts = [text if plain else [{"role": "user", "content": text}] for text in questions]
        rows = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        order = sorted((i for i in range(len(rows)) if len(rows[i]) <= self.max_length), key=lambda i: len(rows[i]))
        found: list[float | None] = [None] * len(rows)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = self.tokenizer.pad(
                {"input_ids": [rows[i] for i in chosen]}, padding_side="right", return_tensors="pt"
            ).to(self.model.device)
            logits = self.model(**batch, use_cache=False).logits
            last = batch["attention_mask"].sum(-1) - 1
            letters = logits[torch.arange(len(chosen), device=last.device), last][:, self.letters].float()
            for i, p in zip(chosen, letters.softmax(-1)[:, 0].tolist(), strict=True):
                found[i] = p
        return found

    def report(self) -> dict[str, float]:
        """Return the number of pairs that were too long, and the consistency."""
        return {"judge/too_long": float(self.too_long)} | consistency(self.consistent)


def consistency(agree: Sequence[bool]) -> dict[str, float]:
    """Return the share of pairs with the same verdict in both orders; ½ for a random judge."""
    return {"judge/consistent": sum(agree) / len(agree)} if agree else {}
