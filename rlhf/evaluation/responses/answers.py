"""One model's responses to the held-out prompts, their divergence from the reference, and the likelihood of text."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from rlhf.config import CompareStage, EvalSet
from rlhf.data.render import Prompt, prompt_ids, question, text_ids
from rlhf.modeling.forward import sequence_logprobs, without_adapter
from rlhf.modeling.generation import Response, generate


@dataclass
class Candidate:
    """A model in the comparison. A ``plain`` one was not trained with a chat template and is prompted without it."""

    name: str
    model: Any
    tokenizer: Any
    plain: bool

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return the prompt in the form that the model was trained on."""
        return question(prompt) if self.plain else prompt


class TextNLL(NamedTuple):
    """Σ -log p of text in ``nats``, with the size of the text in ``tokens`` and in ``bytes``."""

    nats: float
    tokens: int
    bytes: int

    @classmethod
    def sum(cls, texts: Sequence["TextNLL"]) -> "TextNLL":
        """Return the sums over several texts."""
        return cls(*map(sum, zip(*texts, strict=True)))


@dataclass
class Answers:
    """One model's responses. Lists of lists are (B, K): ``lengths`` in tokens, ``ended`` with EOS, ``kl`` in nats.

    ``greedy`` responds to the stage's questions. ``preferences``: title of another model -> how strongly a judge
    prefers sample j to prompt i over the other's; None without a verdict. ``domains``: name -> its texts.
    ``tasks``: task and metric of lm-eval-harness -> a number per document.
    """

    name: str
    plain: bool
    texts: list[list[str]]
    lengths: list[list[int]]
    ended: list[list[bool]]
    greedy: list[str]
    kl: list[list[float]] | None = None
    text_nll: TextNLL | None = None
    domains: dict[str, list[TextNLL]] = field(default_factory=dict)
    tasks: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[list[float]]] = field(default_factory=dict)
    preferences: dict[str, list[list[float | None]]] = field(default_factory=dict)


def answer(
    candidate: Candidate, prompts: Sequence[Prompt], stage: CompareStage, seed: int, reference: Any | None
) -> Answers:
    """Sample ``stage.samples`` responses to each prompt and greedy ones to the stage's questions.

    With a ``reference``, the KL from it is estimated on the samples.
    """
    # Each model has a separate random stream: from the same one, two similar models would sample the same tokens, and
    # their samples would not be independent.
    stream = random.Random(f"{seed} {candidate.name}").getrandbits(32)
    asked = [prompt for prompt in map(candidate.prompt, prompts) for _ in range(stage.samples)]
    responses = _generate(candidate, asked, stage, stage.temperature, stream)
    questions = [candidate.prompt([{"role": "user", "content": text}]) for text in stage.questions]
    found = Answers(
        candidate.name,
        candidate.plain,
        texts=by_prompt([response.text for response in responses], stage.samples),
        lengths=by_prompt([len(response.ids) for response in responses], stage.samples),
        ended=by_prompt([response.ended for response in responses], stage.samples),
        greedy=[response.text for response in _generate(candidate, questions, stage, 0.0, stream)],
    )
    if reference is not None:
        found.kl = by_prompt(divergences(candidate, reference, asked, responses, stage), stage.samples)
    return found


def by_prompt(values: Sequence, samples: int) -> list[list]:
    """Return values of (B · K,) as (B, K), with K ``samples`` per prompt."""
    return [list(values[start : start + samples]) for start in range(0, len(values), samples)]


def _generate(
    candidate: Candidate, prompts: Sequence[Prompt], stage: CompareStage, temperature: float, seed: int
) -> list[Response]:
    return generate(
        candidate.model,
        candidate.tokenizer,
        prompts,
        max_prompt_length=stage.max_prompt_length,
        max_response_length=stage.max_response_length,
        temperature=temperature,
        seed=seed,
        batch_size=stage.batch_size,
    )


@torch.no_grad()
def divergences(
    candidate: Candidate,
    reference: Any | None,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    stage: CompareStage | EvalSet,
) -> list[float]:
    """Return Σₜ log π(aₜ|sₜ) - log π_ref(aₜ|sₜ) of each response, in nats.

    The mean over the policy's own samples is an unbiased estimate of KL(π ‖ π_ref) per response, at the sampling
    temperature. If ``reference`` is None, the reference is the candidate with its adapter disabled.
    """
    rows = distinct_ids(candidate.tokenizer, prompts, stage.max_prompt_length)
    pairs = [(tuple(row), tuple(response.ids)) for row, response in zip(rows, responses, strict=True)]
    order = sorted(dict.fromkeys(pairs), key=lambda pair: len(pair[0]) + len(pair[1]))
    found: dict[tuple, float] = {}
    for first in range(0, len(order), stage.batch_size):
        chosen = order[first : first + stage.batch_size]
        before, after = zip(*chosen, strict=True)
        ours = sequence_logprobs(candidate.model, before, after, stage.temperature)
        with without_adapter(candidate.model, reference):
            start = candidate.model if reference is None else reference
            theirs = sequence_logprobs(start, before, after, stage.temperature)
        found |= zip(chosen, (ours - theirs).tolist(), strict=True)
    return [found[pair] for pair in pairs]


def distinct_ids(tokenizer: Any, prompts: Sequence[Prompt], most: int | None) -> list[list[int]]:
    """Return the ``prompt_ids`` of each prompt; neighbors that are the same object are rendered once."""
    found: list[list[int]] = []
    for before, prompt in zip([None, *prompts], prompts, strict=False):
        found.append(found[-1] if prompt is before else prompt_ids(tokenizer, prompt, most))
    return found


@torch.no_grad()
def text_nll(candidate: Candidate, texts: Sequence[str], block: int, batch_size: int) -> list[TextNLL]:
    """Return Σ -log p of each text, cut into blocks of ``block`` tokens that are predicted separately.

    The first token is predicted from BOS, or from EOS if the tokenizer has no BOS, so that every byte counts. The end
    of a text is not predicted, because a chat template may use another token for it.
    """
    tokenizer, model = candidate.tokenizer, candidate.model.eval()
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    pieces: list[tuple[int, list[int]]] = []
    for owner, text in enumerate(texts):
        ids = [first, *text_ids(tokenizer, [text], add_special_tokens=False)[0]]
        pieces += [(owner, ids[start : start + block + 1]) for start in range(0, len(ids) - 1, block)]
    pieces.sort(key=lambda piece: len(piece[1]))
    nats, tokens = [0.0] * len(texts), [0] * len(texts)
    for start in range(0, len(pieces), batch_size):
        owners, batch = zip(*pieces[start : start + batch_size], strict=True)
        logprobs = sequence_logprobs(model, [piece[:1] for piece in batch], [piece[1:] for piece in batch])
        for owner, piece, total in zip(owners, batch, logprobs.tolist(), strict=True):
            nats[owner] -= total
            tokens[owner] += len(piece) - 1
    sizes = [len(text.encode()) for text in texts]
    return [TextNLL(*sums) for sums in zip(nats, tokens, sizes, strict=True)]
