"""Verification of an upload: download it into an empty cache, load it, and compare it with the run."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config import Weights
from rlhf.errors import HubError
from rlhf.modeling.generation import generate
from rlhf.publishing.bundle import Bundle, Plan, load
from rlhf.publishing.lineage import Link
from rlhf.publishing.snippets import ANSWER, QUESTION
from rlhf.publishing.upload import KEPT, Destination, persist
from rlhf.rewards import RewardModel
from rlhf.storage.digests import file_digest

CLOSE = 1e-3  # largest relative difference between the logits of an adapter attached to its base and merged into it


def verify(bundle: Bundle, run: Link, commit: str, destination: Destination, plan: Plan, work: Path) -> None:
    """Compare commit and run: bytes of files, bits of weights, logits, and a score or a text.

    Raises:
        HubError: they differ, or the commit cannot be fetched.
    """
    with tempfile.TemporaryDirectory(dir=work) as cache:
        found = persist(
            f"{destination.repo}@{commit[:7]}, fetched back",
            lambda: snapshot_download(destination.repo, revision=commit, cache_dir=cache, token=True),
            destination,
        )
        same_files(bundle, Path(found), destination)
        if plan.stage.weights is Weights.adapter:
            compare_adapter(run, Path(found), destination, plan)
        else:
            compare_whole(run, Path(found), destination, plan)


def same_files(bundle: Bundle, found: Path, destination: Destination) -> None:
    """Compare the files of a download with the bundle.

    Raises:
        HubError: a file differs, is missing, or was not sent.
    """
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()} - {*KEPT}
    for name, path in bundle.files.items():
        if name not in names or file_digest(found / name) != file_digest(path):
            raise HubError(f"{destination.title}: {name} differs from the sent file: run the command again")
    if more := names - bundle.files.keys() if destination.parent_commit is None else ():
        raise HubError(
            f"{destination.title}: {min(more)} was not sent from here: remove it there, and run the command again"
        )


def compare_whole(run: Link, found: Path, destination: Destination, plan: Plan) -> None:
    """Check that a model has bit-identical weights, the same logits, and the same score or greedy response.

    Raises:
        HubError: they differ.
    """
    tokenizer, ours = load(run, plan)
    kind = AutoModelForSequenceClassification if run.stage == "reward" else AutoModelForCausalLM
    theirs, read = kind.from_pretrained(found).eval(), AutoTokenizer.from_pretrained(found)
    theirs = theirs.to(ours.device)
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if not torch.equal(state[name], value):
            raise HubError(
                f"{destination.title}: the weights {name} differ from those of {run.title}: run the command again"
            )
    same = torch.equal(logits(theirs, read), logits(ours, tokenizer))
    if not same or answer(run, theirs, read) != answer(run, ours, tokenizer):
        raise HubError(f"{destination.title} and {run.title} compute different results: run the command again")


def compare_adapter(run: Link, found: Path, destination: Destination, plan: Plan) -> None:
    """Check that the adapter on its base from the Hub has the logits of the merged run, up to rounding.

    Raises:
        HubError: they differ.
    """
    tokenizer, ours = load(run, plan)
    theirs = AutoPeftModelForCausalLM.from_pretrained(found, dtype=ours.dtype).eval().to(ours.device)
    want, got = logits(ours, tokenizer), logits(theirs, AutoTokenizer.from_pretrained(found))
    shared = min(want.shape[-1], got.shape[-1])  # the padding token may have a row in one of them
    if (want[..., :shared] - got[..., :shared]).abs().max() > CLOSE * want.abs().max():
        raise HubError(f"{destination.title} and {run.title} compute different results: run the command again")


@torch.no_grad()
def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Return the logits (1, T, V) of a fixed prompt."""
    ids = tokenizer(QUESTION, return_tensors="pt")["input_ids"].to(model.device)
    return model(input_ids=ids).logits.float()


def answer(run: Link, model: Any, tokenizer: Any) -> Any:
    """Return the score of a fixed response, or the token ids of the greedy response to a fixed prompt."""
    talk = tokenizer.chat_template is not None and run.stage != "base"
    prompt = [{"role": "user", "content": QUESTION}] if talk else QUESTION
    tokenizer.strings_are_turns = False  # without turns the question is a plain text, as in the card's code
    if run.stage == "reward":
        return RewardModel(model, tokenizer, max_length=None)([prompt], [ANSWER])
    [response] = generate(
        model,
        tokenizer,
        [prompt],
        max_prompt_length=None,
        max_response_length=32,
        temperature=0.0,
        seed=0,
        batch_size=1,
    )
    return response.ids
