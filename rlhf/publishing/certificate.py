"""A comparison of an exported model with the run that it comes from: greedy answers, and KL per token."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf.errors import ModelError
from rlhf.modeling.generation import sample_ids

# Largest mean KL per token in nats of an export that is the same model; docs/export.md has usual values.
LIMITS = {
    "as trained": 1e-6, "f32": 1e-6, "f16": 1e-4, "bf16": 1e-2, "q8_0": 1e-2, "q5_1": 0.2, "q5_0": 0.2, "q4_1": 0.5,
    "q4_0": 0.5,
}  # fmt: skip

# On a CPU, ggml has GELU from a table in f16; for GPT-NeoX it also takes the approximation by tanh.
ROUNDED = ("gpt2", "gpt_neox")

Logits = Callable[[list[int]], Tensor]  # token ids (T,) -> logits (T, V)
Greedy = Callable[[list[int]], list[int]]  # token ids of a prompt -> those of the answer


class Rows(NamedTuple):
    """Prompts and the run's greedy answers to them, as token ids."""

    prompts: list[list[int]]
    answers: list[list[int]]


class Agreement(NamedTuple):
    """How close an export is to its run: KL(run || export) per token of the answers in nats, and greedy decoding."""

    tokens: int
    kl_mean: float
    kl_max: float
    same_token: float  # share of the tokens of the answers that are the most likely ones in the export
    same_answer: float  # share of the prompts with an equal greedy answer


def limit(precision: str, model_type: str) -> float:
    """Return the largest mean KL per token in nats of an export that is the same model."""
    rounded = model_type in ROUNDED and precision != "as trained"
    return max(LIMITS[precision], LIMITS["f16"]) if rounded else LIMITS[precision]


def answered(model: Any, prompts: list[list[int]], ends: set[int], pad: int, length: int) -> Rows:
    """Return the prompts with the greedy answers of the run."""
    return Rows(prompts, sample_ids(model, prompts, ends, pad, length, 0.0))


def compare(ours: Logits, theirs: Logits, greedy: Greedy, rows: Rows) -> Agreement:
    """Return the agreement of an export with the run over the tokens of the run's greedy answers."""
    divergences, same, equal = [], 0, 0
    for prompt, answer in zip(*rows, strict=True):
        own, other = (read([*prompt, *answer])[len(prompt) - 1 : -1].double() for read in (ours, theirs))
        size = min(own.shape[-1], other.shape[-1])  # an export may lack rows that no token uses
        p, q = own[:, :size].log_softmax(-1), other[:, :size].log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1))
        same += int((q.argmax(-1) == torch.tensor(answer)).sum())
        equal += greedy(prompt) == answer
    kl = torch.cat(divergences)
    return Agreement(len(kl), float(kl.mean()), float(kl.max()), same / len(kl), equal / len(rows.prompts))


def reader(model: Any) -> Logits:
    """Return the logits of a transformers model as a function of token ids."""

    @torch.no_grad()
    def read(ids: list[int]) -> Tensor:
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].cpu()

    return read


def by_transformers(model: Any, theirs: Any, rows: Rows, ends: set[int], pad: int, length: int) -> Agreement:
    """Compare a run with an export that transformers has read."""

    def greedy(prompt: list[int]) -> list[int]:
        return sample_ids(theirs, [prompt], ends, pad, length, 0.0)[0]

    return compare(reader(model), reader(theirs), greedy, rows)


def by_llama_cpp(
    model: Any,
    files: tuple[Path, Path | None],
    rows: Rows,
    texts: Sequence[tuple[str, list[int]]],
    talks: bool,
    ends: set[int],
    length: int,
) -> Agreement | None:
    """Compare a run with GGUF files that llama.cpp reads, a model and perhaps its adapter; None without llama.cpp.

    ``texts`` are texts with their token ids; those of ``talks`` have the beginning of sequence already.

    Raises:
        ModelError: llama.cpp cannot read the file, or has other tokens for a text.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    from llama_cpp import Llama  # ty: ignore[import-not-found]  # optional

    path, adapter = files
    room = max(map(len, rows.prompts)) + length
    try:
        threads = torch.get_num_threads()
        options: dict[str, Any] = {"n_ctx": room, "n_batch": room, "n_threads": threads, "n_threads_batch": threads}
        llama = Llama(str(path), logits_all=True, lora_path=str(adapter) if adapter else None, verbose=False, **options)
    except ValueError as error:
        raise ModelError(f"llama.cpp cannot read {path.name} ({error}): set stage.format=merged") from error

    for text, ids in texts:
        if llama.tokenize(text.encode(), add_bos=not talks, special=True) != ids:
            raise ModelError(f"llama.cpp has other tokens than the run for {text!r}: set stage.format=merged")

    def read(ids: list[int]) -> Tensor:
        llama.reset()
        llama.eval(ids)
        return torch.tensor(llama.scores[: len(ids)])

    def greedy(prompt: list[int]) -> list[int]:
        answer: list[int] = []
        logits = read(prompt)
        while len(answer) < length and not (answer and answer[-1] in ends):
            answer.append(int(logits[-1].argmax()))
            llama.eval(answer[-1:])
            logits = torch.tensor(llama.scores[llama.n_tokens - 1 : llama.n_tokens])
        return answer

    return compare(reader(model), read, greedy, rows)


def require_same(named: str, found: dict[str, Agreement], precision: str, limit: float) -> None:
    """Refuse an export that is another model.

    Raises:
        ModelError: the mean KL per token is not a number or above its limit.
    """
    for reader, agreement in found.items():
        if not agreement.kl_mean <= limit:
            raise ModelError(
                f"{named}, exported as {precision} and read by {reader}, is another model: its KL per token is "
                f"{agreement.kl_mean:.2g} nats, more than {limit:g}: set stage.format=merged, or another "
                "stage.quantization"
            )


def table(found: dict[str, Agreement]) -> list[str]:
    """Return the certificate as a Markdown table."""
    lines = ["| read by | answer tokens | KL per token | largest KL | equal tokens | equal answers |"]
    lines.append("|---|---|---|---|---|---|")
    for reader, one in found.items():
        shares = f"{one.same_token:.1%} | {one.same_answer:.1%}"
        lines.append(f"| {reader} | {one.tokens} | {one.kl_mean:.2g} | {one.kl_max:.2g} | {shares} |")
    return lines


def scores_agree(named: str, ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest difference between the scores of a reward run and of its export.

    Raises:
        ModelError: it is above a millionth of the largest score.
    """
    pairs = list(zip(ours, theirs, strict=True))
    difference = max(abs(a - b) for a, b in pairs)
    if not difference <= 1e-6 * max(1.0, *(abs(a) for a, _ in pairs)):
        raise ModelError(f"{named} and its export differ in their scores by {difference:.2g}: run the command again")
    return difference
