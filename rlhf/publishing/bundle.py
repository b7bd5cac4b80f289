"""The folder to upload: weights, tokenizer, card, run.json, figures and tables of the report.

    README.md                         the card
    model*.safetensors, config.json   or adapter_model.safetensors, adapter_config.json
    tokenizer.json, chat_template.jinja, generation_config.json, ...
    run.json                          the stage contract without secrets and local paths; ancestors under "lineage"
    settings.yaml, reproduce.sh       the composed configuration and the commands of the chain
    evaluation/                       the report of stage=compare, the certificate of stage=export
    figures/reward_kl.png             for a PPO run

The same run and settings produce the same bytes, so that uploaded files are not sent again.
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
from rlhf.modeling import bases, loading
from rlhf.publishing import card, figure, lineage, sections
from rlhf.publishing.lineage import Link
from rlhf.publishing.scrub import Scrubber
from rlhf.storage import digests
from rlhf.storage.json_files import write_json
from rlhf.storage.manifest import MANIFEST

ALLOWED = (
    "README.md", MANIFEST, "settings.yaml", "reproduce.sh", "figures/*.png", "evaluation/report.md",
    "evaluation/metrics.json", "evaluation/certificate.json", "evaluation/figures/*.png", "evaluation/figures/*.svg",
    "*.safetensors",
    "model.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "preprocessor_config.json",
)  # fmt: skip
OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


@dataclass(frozen=True)
class Bundle:
    """A folder to upload: ``link`` is the run on the Hub; ``tag`` identifies its weights."""

    folder: Path
    link: Link
    tag: str

    @property
    def files(self) -> dict[str, Path]:
        """Name in the repository -> file, sorted by name."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True)
class Plan:
    """The inputs of a bundle: ``above`` are the run's ancestors on the Hub, ``stage`` the settings."""

    stage: PublishStage
    model: Model
    above: Sequence[Link]
    scrubber: Scrubber
    comparison: Path | None
    export: Path | None = None


def build(link: Link, repo: str | None, name: str, folder: Path, plan: Plan) -> Bundle:
    """Write the bundle of ``link`` into the empty ``folder``.

    Raises:
        HubError: the bundle contains a secret, a local path or a file of an unknown kind.
        LineageError: an adapter is to be published, but its base is only on this machine.
        ModelError: the weights cannot be read.
    """
    if plan.stage.weights is Weights.adapter:
        parameters, template = write_adapter(link, folder, plan)
    else:
        parameters, template = write_whole(link, folder, plan)
    digest = str(digests.weights_digest(folder))
    manifest = describe(link, digest, plan)
    on_hub = lineage.published(link, repo, None, manifest)
    chain = [*plan.above, on_hub]
    write_json(folder / MANIFEST, manifest)
    (folder / "settings.yaml").write_text(
        yaml.safe_dump(manifest["settings"], sort_keys=False, allow_unicode=True), "utf-8"
    )
    (folder / "reproduce.sh").write_text(f"#!/bin/sh -e\n{card.script(chain, plan.scrubber)}\n", encoding="utf-8")
    drawn = link.stage == "ppo" and write_figure(link, folder)
    copy_evaluation(link, folder, plan)
    copy_certificate(link, folder, plan)
    tag = f"run-{digest[:8]}"
    subject = card.Subject(
        name=name, repo=repo, tag=tag, chain=chain, source=link, stage=plan.stage, parameters=parameters,
        has_template=template, figure=drawn, comparison=plan.comparison, export=plan.export,
    )  # fmt: skip
    card.write(subject, plan.scrubber, folder / "README.md")
    bundle = Bundle(folder, on_hub, tag)
    check(bundle, plan.scrubber)
    return bundle


def load(link: Link, plan: Plan) -> tuple[Any, Any]:
    """Load the tokenizer and the model of a run, with adapters merged, in the published dtype."""
    trained = Dtype(link.run["dtype"])
    settings = replace(plan.model, dtype=trained, attention=None, chat_template=None)
    tokenizer = loading.load_tokenizer(link.parent, settings)
    kind = loading.load_reward_model if link.stage == "reward" else loading.load_policy
    model = kind(link.parent, settings, tokenizer)
    if plan.stage.dtype is not None and plan.stage.dtype is not trained:
        for weight in model.parameters():  # not model.to, which would round the frequencies of rotary positions, too
            weight.data = weight.data.to(getattr(torch, plan.stage.dtype.value))
    if link.stage == "reward":
        for name, key in {"score_mean": "scores/mean", "score_std": "scores/std"}.items():
            setattr(model.config, name, link.metrics.get(key, 0.0 if name == "score_mean" else 1.0))
    return tokenizer, model.eval()


def write_whole(link: Link, folder: Path, plan: Plan) -> tuple[int, bool]:
    """Write a complete model; return its parameters, and whether its tokenizer has a chat template."""
    tokenizer, model = load(link, plan)
    model.config.use_cache = True  # training disabled it; generation needs it
    model.save_pretrained(folder, max_shard_size=plan.stage.max_shard_size)
    save_tokenizer(tokenizer, folder)
    return model.num_parameters(), tokenizer.chat_template is not None


def write_adapter(link: Link, folder: Path, plan: Plan) -> tuple[int, bool]:
    """Write only the adapter, for a base on the Hub; return its parameters, and whether it has a chat template.

    Raises:
        LineageError: the run has no adapter, its base is not on the Hub or lacks embeddings, or it is a reward model.
    """
    source = bases.adapter_folder(link.parent)
    base = lineage.with_weights(plan.above, link.roles.get("policy"))
    if source is None:
        raise LineageError(f"{link.title} trained every weight and has no adapter: set stage.weights=merged")
    if link.stage == "reward":
        raise LineageError(
            f"{link.title} is a reward model, whose head cannot be loaded from an adapter's repository: "
            "set stage.weights=merged"
        )
    if base is None or base.repo is None:
        raise LineageError(
            f"stage.weights=adapter, but {link.title} is an adapter on {base.path if base else 'a run'}, a local path "
            "that nobody else can load: set stage.weights=merged, or stage.publish=chain to publish the base too"
        )
    tokenizer = loading.load_tokenizer(link.parent, replace(plan.model, chat_template=None))
    if lacks_rows(base, tokenizer):
        raise LineageError(
            f"stage.weights=adapter, but neither {base.repo} nor the adapter has embeddings of all tokens of "
            f"{link.title}: set stage.weights=merged"
        )
    config = json.loads((source / loading.ADAPTER).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.repo, "revision": base.commit}
    write_json(folder / loading.ADAPTER, config)
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    save_tokenizer(tokenizer, folder)
    return sum(tensor.numel() for tensor in tensors.values()), tokenizer.chat_template is not None


def lacks_rows(base: Link, tokenizer: Any) -> bool:
    """Whether a base that is not a run has fewer embeddings than the tokenizer has tokens."""
    if base.stage is not None:
        return False
    config = json.loads(bases.fetched(base.parent, "config.json").read_text(encoding="utf-8"))
    return len(tokenizer) > config["vocab_size"]


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save the tokenizer without transformers' record of how it was loaded on this machine."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {key: value for key, value in config.items() if key not in OF_THIS_MACHINE})


def describe(link: Link, digest: str, plan: Plan) -> dict[str, Any]:
    """Return the published run.json: no secrets or local paths, the parents' repositories, and all ancestors."""
    manifest = {key: value for key, value in link.run.items() if key not in ("parents", "lineage", "content")}
    manifest = plan.scrubber.tree(manifest)
    manifest["content"] = plan.scrubber.tree(
        {key: value for key, value in link.run.get("content", {}).items() if not key.startswith("parents.")}
    )
    manifest |= {"weights": digest, "trained_weights": link.run["weights"]}
    manifest["parents"] = {role: record(role, link, plan) for role in link.roles}
    manifest["lineage"] = [
        {**above.manifest, "lineage": [], "published": {"repo": above.repo, "commit": above.commit}}
        for above in plan.above
        if above.manifest is not None
    ]
    return manifest


def kept(link: Link, plan: Plan) -> Link:
    """Return an unpublished ancestor with the run.json that published files show."""
    if link.manifest is None or link.repo is not None:
        return link
    return replace(link, manifest=describe(link, link.run["weights"], plan))


def record(role: str, link: Link, plan: Plan) -> dict[str, Any]:
    """Return the entry of a parent in a published run.json: its repository, or only its title."""
    above = lineage.with_weights(plan.above, link.roles[role])
    if above is None:  # replaced by the run itself, which changed nothing
        parent = link.run["parents"][role]
        facts = {key: parent[key] for key in ("stage", "digest", "revision", "update") if key in parent}
        return {"path": plan.scrubber.text(parent["path"])} | facts
    place = above.repo or plan.scrubber.text(above.title)
    return {"path": place, "stage": above.stage, "digest": above.digest, "revision": above.commit}


def write_figure(link: Link, folder: Path) -> bool:
    """Draw the scores of a PPO run over the KL; return whether it logged any."""
    series = {} if link.directory is None else figure.points(link.directory / "metrics.jsonl")
    if series:
        figure.draw(series, folder / "figures" / "reward_kl.png")
    return bool(series)


def copy_evaluation(link: Link, folder: Path, plan: Plan) -> None:
    """Copy the report's tables and figures if the comparison includes this run."""
    if plan.comparison is None or sections.compared(plan.comparison, link.digest) is None:
        return
    target = folder / "evaluation"
    target.mkdir()
    report = plan.comparison / "report.md"
    (target / "report.md").write_text(plan.scrubber.text(report.read_text(encoding="utf-8")), encoding="utf-8")
    found = json.loads((plan.comparison / "metrics.json").read_text(encoding="utf-8"))
    write_json(target / "metrics.json", plan.scrubber.tree(found))
    for path in sorted(plan.comparison.glob("figures/*")):  # the report links to them
        if path.suffix in (".png", ".svg"):
            (target / "figures").mkdir(exist_ok=True)
            (target / "figures" / path.name).write_bytes(path.read_bytes())


def copy_certificate(link: Link, folder: Path, plan: Plan) -> None:
    """Copy the certificate of an export of this run."""
    if plan.export is not None and sections.certificate(plan.export, link.digest, str) is not None:
        (folder / "evaluation").mkdir(exist_ok=True)
        found = json.loads((plan.export / "certificate.json").read_text(encoding="utf-8"))
        write_json(folder / "evaluation" / "certificate.json", plan.scrubber.tree(found))


def check(bundle: Bundle, scrubber: Scrubber) -> None:
    """Check that nothing private is about to be sent.

    Raises:
        HubError: a file is not in ``ALLOWED``, or contains a secret or a local path.
    """
    for name in bundle.files:
        if not any(fnmatch(name, pattern) for pattern in ALLOWED):
            raise HubError(f"{name} is not a kind of file to publish; nothing is sent: remove it from {bundle.folder}")
    scrubber.check(bundle.folder)
