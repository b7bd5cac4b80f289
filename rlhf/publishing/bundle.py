"""The folder that goes up: weights, tokenizer, card, run.json, figures and tables of the report, and nothing else.

    README.md                         the card
    model*.safetensors, config.json   or adapter_model.safetensors, adapter_config.json
    tokenizer.json, chat_template.jinja, generation_config.json, ...
    run.json                          the stage contract, without secrets and places, its ancestors under "lineage"
    settings.yaml, reproduce.sh       the composed configuration and the commands of the chain
    evaluation/                       the report of stage=compare
    figures/reward_kl.png             of a PPO run

The same run and settings give the same bytes, so that what is up already is not sent again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from rlhf.config import Dtype, Model, PublishStage, Weights
from rlhf.errors import HubError, LineageError
from rlhf.modeling import loading
from rlhf.publishing import card, figure, lineage, sections
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.storage import digests
from rlhf.storage.json_files import write_json
from rlhf.storage.manifest import MANIFEST

ALLOWED = (
    "README.md", MANIFEST, "settings.yaml", "reproduce.sh", "figures/*.png", "evaluation/report.md",
    "evaluation/metrics.json", "evaluation/figures/*.png", "evaluation/figures/*.svg", "*.safetensors",
    "model.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "preprocessor_config.json",
)  # fmt: skip
OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


@dataclass(frozen=True)
class Bundle:
    """``link`` is the run as it will be on the Hub; ``tag`` names exactly these weights."""

    folder: Path
    link: Link
    tag: str

    @property
    def files(self) -> dict[str, Path]:
        """Name in the repository -> file, in the order of the names."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True)
class Plan:
    """How to write a bundle: ``above`` are the run's ancestors as they are on the Hub, ``stage`` the settings."""

    stage: PublishStage
    model: Model
    above: Sequence[Link]
    scrubber: Scrubber
    comparison: Path | None


def build(link: Link, repo: str | None, name: str, folder: Path, plan: Plan) -> Bundle:
    """Write what goes up for ``link`` into ``folder``, which is empty.

    Raises:
        HubError: something would go up that must not: a secret, a path, a file of an unknown kind.
        LineageError: an adapter is to go up whose base is here alone.
        ModelError: the weights cannot be read.
    """
    if plan.stage.weights is Weights.adapter:
        parameters, template = write_adapter(link, folder, plan)
    else:
        parameters, template = write_whole(link, folder, plan)
    digest = digests.weights_digest(folder)
    manifest = describe(link, digest, plan)
    there = lineage.published(link, repo, None, manifest)
    chain = [*plan.above, there]
    write_json(folder / MANIFEST, manifest)
    (folder / "settings.yaml").write_text(
        yaml.safe_dump(manifest["settings"], sort_keys=False, allow_unicode=True), "utf-8"
    )
    lines = "\n".join(card.commands(chain, plan.scrubber))
    (folder / "reproduce.sh").write_text(f"#!/bin/sh -e\n{lines}\n", encoding="utf-8")
    drawn = link.stage == "ppo" and write_figure(link, folder)
    copy_evaluation(link, folder, plan)
    tag = f"run-{digest[:8]}"
    subject = card.Subject(
        name=name, repo=repo, tag=tag, chain=chain, source=link, stage=plan.stage, parameters=parameters,
        has_template=template, figure=drawn, comparison=plan.comparison,
    )  # fmt: skip
    card.write(subject, plan.scrubber, folder / "README.md")
    bundle = Bundle(folder, there, tag)
    check(bundle, plan.scrubber)
    return bundle


def load(link: Link, plan: Plan) -> tuple[Any, Any]:
    """Tokenizer and model of a run, adapters merged, in the type in which it goes up."""
    trained = Dtype(link.manifest["dtype"])
    settings = replace(plan.model, dtype=trained, attention=None, chat_template=None)
    tokenizer = loading.load_tokenizer(link.parent, settings)
    kind = loading.load_reward_model if link.stage == "reward" else loading.load_policy
    model = kind(link.parent, settings, tokenizer)
    if plan.stage.dtype is not None and plan.stage.dtype is not trained:
        model = model.to(getattr(torch, plan.stage.dtype.value))
    if link.stage == "reward":
        for name, key in {"score_mean": "scores/mean", "score_std": "scores/std"}.items():
            setattr(model.config, name, link.metrics.get(key, 0.0 if name == "score_mean" else 1.0))
    return tokenizer, model.eval()


def write_whole(link: Link, folder: Path, plan: Plan) -> tuple[int, bool]:
    """A model that stands by itself. Its parameters, and whether its tokenizer has a template."""
    tokenizer, model = load(link, plan)
    model.config.use_cache = True  # training switched it off, and whoever generates wants it
    model.save_pretrained(folder, max_shard_size=plan.stage.max_shard_size)
    save_tokenizer(tokenizer, folder)
    return model.num_parameters(), tokenizer.chat_template is not None


def write_adapter(link: Link, folder: Path, plan: Plan) -> tuple[int, bool]:
    """The adapter alone, on a base that others can load.

    Raises:
        LineageError: the run has no adapter, its base is here alone or lacks rows of tokens, or it is a reward model.
    """
    source = loading.adapter_folder(link.parent)
    base = lineage.with_weights(plan.above, link.roles.get("policy"))
    if source is None:
        raise LineageError(f"{link.title} trained every weight and has no adapter: give stage.weights=merged")
    if link.stage == "reward":
        raise LineageError(
            f"{link.title} is a reward model, whose head does not load from an adapter's repository: "
            "give stage.weights=merged"
        )
    if base is None or base.repo is None:
        raise LineageError(
            f"stage.weights=adapter, but {link.title} is an adapter on {base.path if base else 'a run'}, a path of "
            "this machine that nobody else can load: give stage.weights=merged, or stage.publish=chain to put it up too"
        )
    tokenizer = loading.load_tokenizer(link.parent, replace(plan.model, chat_template=None))
    if lacks_rows(base, tokenizer):
        raise LineageError(
            f"stage.weights=adapter, but the tokenizer of {link.title} has tokens that {base.repo} has no row for, and "
            "an adapter has none either: give stage.weights=merged"
        )
    config = json.loads((source / loading.ADAPTER).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.repo, "revision": base.commit}
    write_json(folder / loading.ADAPTER, config)
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    save_tokenizer(tokenizer, folder)
    return sum(tensor.numel() for tensor in tensors.values()), tokenizer.chat_template is not None


def lacks_rows(base: Link, tokenizer: Any) -> bool:
    """Whether a model of others has fewer embeddings than the tokenizer has tokens."""
    if base.stage is not None:
        return False
    config = json.loads(loading.fetched(base.parent, "config.json").read_text(encoding="utf-8"))
    return len(tokenizer) > config["vocab_size"]


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """transformers also writes down how it was loaded here."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {key: value for key, value in config.items() if key not in OF_THIS_MACHINE})


def describe(link: Link, digest: str, plan: Plan) -> dict[str, Any]:
    """run.json as it goes up: without secrets and places, the parents where they are on the Hub, and all ancestors."""
    manifest = {key: value for key, value in link.manifest.items() if key not in ("parents", "lineage", "content")}
    manifest = plan.scrubber.tree(manifest)
    manifest["content"] = plan.scrubber.tree(
        {key: value for key, value in link.manifest.get("content", {}).items() if not key.startswith("parents.")}
    )
    manifest |= {"weights": digest, "trained_weights": link.manifest["weights"]}
    manifest["parents"] = {role: record(role, link, plan) for role in link.roles}
    manifest["lineage"] = [
        {**one.manifest, "lineage": [], "published": {"repo": one.repo, "commit": one.commit}}
        for one in plan.above
        if one.manifest is not None
    ]
    return manifest


def kept(link: Link, plan: Plan) -> Link:
    """An ancestor that does not go up, as the others' run.json and cards show it."""
    if link.manifest is None or link.repo is not None:
        return link
    return replace(link, manifest=describe(link, link.digest, plan))


def record(role: str, link: Link, plan: Plan) -> dict[str, Any]:
    """What a published run.json says of a parent: its place on the Hub, or its title alone."""
    above = lineage.with_weights(plan.above, link.roles[role])
    if above is None:  # replaced by the run itself, which changed nothing
        told = link.manifest["parents"][role]
        return {"path": plan.scrubber.text(told["path"])} | {key: told[key] for key in ("stage", "digest", "revision")}
    place = above.repo or plan.scrubber.text(above.title)
    return {"path": place, "stage": above.stage, "digest": above.digest, "revision": above.commit}


def write_figure(link: Link, folder: Path) -> bool:
    series = {} if link.directory is None else figure.points(link.directory / "metrics.jsonl")
    if series:
        figure.draw(series, folder / "figures" / "reward_kl.png")
    return bool(series)


def copy_evaluation(link: Link, folder: Path, plan: Plan) -> None:
    """The report's tables and figures, where the comparison looked at this run."""
    if sections.compared(plan.comparison, link.digest) is None:
        return
    target = folder / "evaluation"
    target.mkdir()
    report = plan.comparison / "report.md"
    (target / "report.md").write_text(plan.scrubber.text(report.read_text(encoding="utf-8")), encoding="utf-8")
    found = json.loads((plan.comparison / "metrics.json").read_text(encoding="utf-8"))
    write_json(target / "metrics.json", plan.scrubber.tree(found))
    for path in sorted(plan.comparison.glob("figures/*")):  # beside the report, whose links lead there
        if path.suffix in (".png", ".svg"):
            (target / "figures").mkdir(exist_ok=True)
            (target / "figures" / path.name).write_bytes(path.read_bytes())


def check(bundle: Bundle, scrubber: Scrubber) -> None:
    """
    Raises:
        HubError: a file is there that is none of ``ALLOWED``, or one that holds what must not leave this machine.
    """
    for name in bundle.files:
        if not any(fnmatch(name, pattern) for pattern in ALLOWED):
            raise HubError(f"{name} is no file that is published, so nothing is sent: remove it from {bundle.folder}")
    scrubber.check(bundle.folder)
