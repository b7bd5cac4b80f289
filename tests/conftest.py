"""Fixtures that every test may use: settings composed as the command line composes them, and a chain of tiny runs."""

import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads beside another busy process spin instead of working
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach out
os.environ["RLHF_CACHE"] = tempfile.mkdtemp(prefix="rlhf-cache-")  # not the user's own; removed below

import atexit
import gc
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rlhf.cli.main import register, settings_of
from rlhf.config import Settings
from rlhf.storage.paths import bundled
from tests.hub.server import Hub, serving

# Property tests measure no time: another busy process would fail them.
hypothesis.settings.register_profile(
    "any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any speed")

atexit.register(shutil.rmtree, os.environ["RLHF_CACHE"], ignore_errors=True)

# A model of some ten thousand parameters, two optimizer steps, a few rows: enough to run every line of a stage.
TINY = (
    "curves=[]",  # half a second per run; tests/evaluation/reporting/test_curves.py
    "model.architecture.vocabulary=384",
    "model.architecture.hidden_size=16",
    "model.architecture.intermediate_size=32",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.num_attention_heads=2",
    "model.architecture.num_key_value_heads=2",
    *(
        f"data.{kind}.{limit}=24"
        for kind in ("text", "demonstrations", "preferences", "prompts")
        for limit in ("limit", "held_out_limit")
    ),
    "eval_set.prompts=4",
    "eval_set.samples=2",
    "eval_set.max_response_length=6",
)
TRAINER = (
    "stage.trainer.max_steps=2",
    "stage.trainer.per_device_train_batch_size=4",
    "stage.trainer.logging_steps=1",
    "stage.sample_prompts=2",
    "stage.sample_length=4",
)
SAMPLED = ("stage.samples=3", "stage.max_response_length=6")
ALIGNED = ("dpo", "kto", "ppo", "online_dpo", "raft")  # stages that start from SFT; all but the first two read a reward
CARD = ("stage.statistics_prompts=4", "stage.probe_rows=4", "stage.bootstrap=20", "stage.tfidf_pairs=20")
FAST = {
    "base": TRAINER,
    "sft": TRAINER,
    "reward": (*TRAINER, *CARD),
    "evaluate_reward": (*CARD, "stage.sample_length=4"),
    "dpo": TRAINER,
    "kto": TRAINER,
    "ppo": (
        "stage.updates=2",
        "stage.batch_size=4",
        "stage.minibatches=2",
        "stage.micro_batch_size=2",
        "stage.epochs=2",
        "stage.max_response_length=6",
        "stage.sample_prompts=2",
        "stage.sample_length=4",
        "stage.log_every=1",
        "stage.save_every=1",
    ),
    "merge": (),
    "online_dpo": (*TRAINER, *SAMPLED, "stage.rounds=2", "stage.stop_early=false"),
    "raft": (*TRAINER, *SAMPLED),
    "inspect": ("stage.near_duplicates=200", "stage.languages=50"),
    "publish": ("stage.wait=0",),
    "sample": ("stage.prompts=6", "stage.samples=3", "stage.max_response_length=6"),
    "label": (),
    "ladder": (),
    "overoptimize": (),
    "export": ("stage.prompts=2", "stage.max_response_length=6"),
    "chat": ("stage.max_response_length=16",),
    "plan": ("stage.probe_seconds=1",),
    "compare": (
        "stage.prompts=6",
        "stage.samples=2",
        "stage.max_response_length=6",
        "stage.bootstrap=50",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files of tests/ itself first: they are the longest, and a worker takes a whole file."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != here)


def pytest_collection_finish() -> None:
    """Leave what was imported out of later collections of garbage: transformers collects several times per run."""
    gc.collect()
    gc.freeze()


DRAWN = ("evaluation", "publishing", "benchmarks", "test_benchmarks.py")  # tests of figures


def blank(figure: object, file: Any, format: str | None = None, **options: object) -> None:
    """Save an empty figure, in the place of ``Figure.savefig``."""
    file.write('<svg viewBox="0 0 1 1"></svg>') if format == "svg" else Path(file).write_bytes(b"PNG")


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save empty figures: drawing is half of stage=reward and stage=compare. ``chain`` and ``aligned`` draw theirs."""
    if request.path.relative_to(Path(__file__).parent).parts[0] not in DRAWN:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank)


GROUPS = {path.name for path in bundled("conf").iterdir() if path.is_dir()}


@cache
def chosen(*groups: str) -> DictConfig:
    """What Hydra composes from choices of groups, before it sets values."""
    register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        return compose(config_name="config", overrides=list(groups))


def composed(*overrides: str) -> Settings:
    """The settings that ``python -m rlhf <overrides>`` would run with.

    Files are read once for each choice of groups: this is most of the time that Hydra takes.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [one for one in parsed if one.key_or_group.partition(".")[0] != "hydra" and one.key_or_group not in GROUPS]
    config = deepcopy(chosen(*(one.input_line for one in parsed if one not in values)))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    return settings_of(config)


def tiny_overrides(stage: str, checkpoints: Path) -> list[str]:
    return [f"stage={stage}", f"checkpoints={checkpoints}", "hardware=cpu", *TINY, *FAST[stage]]


def manifest(stage: str, **more: Any) -> dict[str, Any]:
    """run.json of a finished run that nothing was trained for."""
    return {
        "stage": stage, "name": "almanac", "status": "finished", "command": f"python -m rlhf stage={stage}", "seed": 0,
        "dtype": "float32", "content": {}, "parents": {}, "data": {}, "weights": None, "metrics": {}, "seconds": 1.0,
        "settings": {"checkpoints": "checkpoints", "stage": {}, "data": {"name": "almanac", "path": None},
                     "adapter": {"kind": "none"}},
        "finished": "2026-01-01T00:00:00+00:00",
    } | more  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a tiny stage below the test's own directory."""

    def of(stage: str, *overrides: str) -> Settings:
        return composed(*tiny_overrides(stage, tmp_path), *overrides)

    return of


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints directory with finished tiny runs of base, sft and reward under the name ``almanac``."""
    from rlhf.stages import execute

    root = tmp_path_factory.mktemp("chain")
    for stage in ("base", "sft", "reward"):
        execute(composed(*tiny_overrides(stage, root)), root / "almanac" / stage)
    gc.freeze()  # more was imported
    return root


@pytest.fixture
def beside_chain(chain: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a tiny stage that starts from the chain's runs and writes below the test's own directory."""

    def of(stage: str, *overrides: str) -> Settings:
        parents = [f"stage.policy={chain}/almanac/sft"] if stage in ("reward", *ALIGNED) else []
        parents += [f"stage.reward={chain}/almanac/reward"] if stage in ALIGNED[2:] else []
        parents += [f"model.pretrained={chain}/almanac/base"] if stage == "sft" else []
        return composed(*tiny_overrides(stage, tmp_path), *parents, *overrides)

    return of


@pytest.fixture(scope="session")
def aligned(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoints directory with a copy of the chain's runs, and tiny runs of the later stages beside them."""
    from rlhf.stages import execute

    root = tmp_path_factory.mktemp("aligned")
    shutil.copytree(chain / "almanac", root / "almanac")
    for stage in ("dpo", "kto", "ppo", "compare"):
        execute(composed(*tiny_overrides(stage, root)), root / "almanac" / stage)
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local server in the place of the Hub, an empty cache, and a token that may write as ``alice``."""
    import datasets
    from huggingface_hub import constants, hf_api

    from rlhf.hub import pinned
    from rlhf.publishing import upload

    with serving() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # the server supports only LFS
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_HUB_OFFLINE": False,
            "HF_DATASETS_CACHE": tmp_path / "datasets",
        }.items():
            monkeypatch.setattr(datasets.config, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_alicewrites01")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between attempts, longer every time
        caches = (pinned.pin, pinned.manifest_at, upload.client)
        for cached in caches:
            cached.cache_clear()
        yield server
        for cached in caches:
            cached.cache_clear()


@pytest.fixture
def elsewhere(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's directory with the files that README.md and docs/ expect there."""
    monkeypatch.chdir(tmp_path)
    Path("my_model").symlink_to(chain / "almanac" / "base" / "model")
    asked = [f"What is {n}?" for n in range(60)]
    demonstrations = [{"prompt": text, "completion": "It is."} for text in asked]
    pairs = [{"prompt": text, "chosen": "It is.", "rejected": "No."} for text in asked]
    for name, rows in {"my_demonstrations": demonstrations, "my_pairs": pairs}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("my_reward.py").write_text(
        "def shorter(prompts, completions):\n    return [-float(len(text)) for text in completions]\n"
    )
    for stage in ("base", "sft", "reward", "dpo", "ppo", "compare"):
        recipe = Path("quick") / "recipe" / f"quick-{stage}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(f"# @package _global_\n{OmegaConf.to_yaml(OmegaConf.from_dotlist(list(FAST[stage])))}")
    Path("quick/experiment").mkdir()
    Path("quick/experiment/quick.yaml").write_text("# @package _global_\nname: quick\n")
    return tmp_path
