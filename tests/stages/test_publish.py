"""The stage from end to end, with the real client, against a local server."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config import Settings
from rlhf.errors import ConfigError, HubError, LineageError, RunError
from rlhf.runs.run import Run, runs
from rlhf.stages import execute
from rlhf.storage.manifest import read_manifest
from tests.conftest import composed, tiny_overrides
from tests.hub.server import Hub, front_matter

REPO = "alice/almanac-ppo"
PARENTS = ["alice/almanac-base", "alice/almanac-sft", "alice/almanac-reward"]
Publish = Callable[..., list[dict]]


@pytest.fixture
def publish(aligned: Path, tmp_path: Path) -> Publish:
    """Publish a run of the tiny chain; what run.json says was published."""

    def of(*overrides: str, run: Path | None = None) -> list[dict]:
        given = [f"stage.run={run or aligned / 'almanac' / 'ppo'}", *overrides]
        execute(composed(*tiny_overrides("publish", tmp_path), *given), tmp_path / "publish")
        return read_manifest(tmp_path / "publish")["published"]

    return of


def metadata(card: bytes) -> dict:
    return yaml.safe_load(front_matter(card.decode()))


def test_a_run_without_a_critic_is_published(publish: Publish, hub: Hub, aligned: Path, tmp_path: Path) -> None:
    parents = [f"stage.policy={aligned}/almanac/sft", f"stage.reward={aligned}/almanac/reward"]
    given = [*parents, "stage.advantage=grpo", "stage.samples=2"]
    execute(composed(*tiny_overrides("ppo", tmp_path), *given), tmp_path / "grpo")
    [sent] = publish(f"stage.repo={REPO}", run=tmp_path / "grpo")
    assert sent["repo"] == REPO
    assert "| `advantage` | grpo |" in hub.files(REPO)["README.md"].decode()


def test_a_chain_goes_up_whole_and_linked(publish: Publish, hub: Hub, aligned: Path, tmp_path: Path) -> None:
    sent = publish(f"stage.repo={REPO}", "stage.publish=chain")
    assert [one["repo"] for one in sent] == [*PARENTS, REPO]
    for one in sent:
        assert hub.repos["models", one["repo"]].private
        assert hub.titles(one["repo"]) == [f"rlhf: {one['tags'][0]}", "initial commit"]
        assert hub.repos["models", one["repo"]].tags == dict.fromkeys(one["tags"], one["commit"])
        assert one["tags"][1] == "v1"
    [collection] = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == [*PARENTS, REPO]
    assert collection["private"]

    files = hub.files(REPO)
    card, data = files["README.md"].decode(), metadata(files["README.md"])
    assert data["base_model"] == "alice/almanac-sft"
    assert data["base_model_relation"] == "finetune"
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    for parent, one in zip(PARENTS, sent, strict=False):
        assert f"[{parent}](https://huggingface.co/{parent}) | revision `{one['commit'][:12]}`" in card
    written = json.loads(files["run.json"])
    assert written["parents"]["policy"]["path"] == "alice/almanac-sft"
    assert written["parents"]["policy"]["revision"] == sent[1]["commit"]
    assert [one["stage"] for one in written["lineage"]] == ["base", "sft", "reward"]
    assert files["reproduce.sh"].decode().count("python -m rlhf stage=") == 4
    assert yaml.safe_load(files["settings.yaml"])["stage"]["name"] == "ppo"
    weights = (aligned / "almanac" / "ppo" / "model" / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == weights
    assert not list((tmp_path / "publish").rglob("*.safetensors"))
    assert [run.stage for run in runs(tmp_path)] == ["publish"]


STRANGER = """
import sys
for code in sys.argv[1:]:
    exec(code)
assert not [name for name in sys.modules if name.split(".")[0] == "rlhf"]
"""


def test_a_stranger_who_knows_transformers_alone_loads_it(
    publish: Publish, hub: Hub, aligned: Path, tmp_path: Path
) -> None:
    """The card's own code, in another process and another directory, with an empty cache."""
    publish(f"stage.repo={REPO}", "stage.publish=chain")
    codes = []
    for repo in (REPO, "alice/almanac-reward"):
        [code] = re.findall(r"```python\n(.*?)```", hub.files(repo)["README.md"].decode(), flags=re.DOTALL)
        codes.append(code)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "PYTHONPATH", "HF_HUB_CACHE")
    }
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    (tmp_path / "elsewhere").mkdir()
    found = subprocess.run(
        [sys.executable, "-c", STRANGER, *codes],
        env=environment, cwd=tmp_path / "elsewhere", capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]

    from rlhf.publishing.snippets import ANSWER, QUESTION

    folder = aligned / "almanac" / "ppo" / "model"
    tokenizer, policy = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    talk = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = policy.generate(**ids, max_new_tokens=64, do_sample=False)
    text = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    reward = AutoModelForSequenceClassification.from_pretrained(aligned / "almanac" / "reward" / "model")
    talk.append({"role": "assistant", "content": ANSWER})
    score = reward(**tokenizer.apply_chat_template(talk, return_dict=True, return_tensors="pt")).logits[0, 0].item()
    measured = Run.open(aligned / "almanac" / "reward").manifest["metrics"]
    normalized = (score - measured["scores/mean"]) / measured["scores/std"]
    assert found.stdout == f"{text}\n{score} {normalized}\n"


def test_the_certificate_of_an_export_is_on_the_card(
    publish: Publish, hub: Hub, aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "almanac" / "ppo"
    shutil.copytree(aligned / "almanac" / "ppo", run)
    shutil.copytree(aligned / "almanac" / "sft", tmp_path / "almanac" / "sft")
    execute(composed(*tiny_overrides("export", tmp_path), f"stage.run={run}"), tmp_path / "almanac" / "export")
    assert publish(run=run) == []
    folder = tmp_path / "publish" / "bundles" / "almanac-ppo"
    card = (folder / "README.md").read_text()
    assert "The export (merged, as trained) was read back" in card
    assert "| transformers | 12 | 0 | 0 | 100.0% | 100.0% |\n\nKL(model ‖ export) is" in card
    found = json.loads((folder / "evaluation" / "certificate.json").read_text())
    assert found["readers"]["transformers"]["kl_mean"] == 0
    assert str(tmp_path) not in json.dumps(found)
    with pytest.raises(LineageError, match="export is not an export of .*/sft: set an export of it, or null"):
        publish(f"stage.export={tmp_path}/almanac/export", "overwrite=true", run=tmp_path / "almanac" / "sft")


def test_without_a_repository_nothing_is_sent(
    publish: Publish, hub: Hub, aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert publish() == []
    assert hub.requests == []
    folder = tmp_path / "publish" / "bundles" / "almanac-ppo"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    drawn = sorted(path.name for path in (aligned / "almanac" / "compare" / "figures").glob("*.svg"))
    assert [name for name in names if name.endswith(".svg")] == [f"evaluation/figures/{name}" for name in drawn]
    assert [name for name in names if not name.endswith(".svg")] == [
        "README.md", "chat_template.jinja", "config.json", "evaluation/metrics.json", "evaluation/report.md",
        "figures/reward_kl.png", "generation_config.json", "model.safetensors", "reproduce.sh", "run.json",
        "settings.yaml", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert f"nothing was sent; {tmp_path}/publish/bundles/almanac-ppo/README.md is the card" in shown
    assert f"{len(names)} files" in shown
    assert publish(f"stage.repo={REPO}", "stage.dry_run=true") == []
    assert hub.requests == []
    assert f"dry_run=false sends it to {REPO} (private)" in capsys.readouterr().out


def test_again_sends_nothing_and_another_run_is_the_next_version(publish: Publish, hub: Hub, aligned: Path) -> None:
    first = publish(f"stage.repo={REPO}")
    hub.requests.clear()
    assert publish(f"stage.repo={REPO}") == first
    assert not [request for request in hub.requests if request.startswith("PUT") or "/commit/" in request]
    [second] = publish(f"stage.repo={REPO}", run=aligned / "almanac" / "dpo")
    assert second["tags"][1] == "v2"
    assert len(hub.titles(REPO)) == 3
    assert "figures/reward_kl.png" not in hub.files(REPO)  # a leftover of the first version
    assert "figures/reward_kl.png" in hub.files(REPO, "v1")


def test_a_separate_branch(publish: Publish, hub: Hub, aligned: Path) -> None:
    publish(f"stage.repo={REPO}")
    [one] = publish(f"stage.repo={REPO}", "stage.branch=seed-1", "stage.tag=s1", run=aligned / "almanac" / "dpo")
    assert hub.repos["models", REPO].branches["seed-1"] == one["commit"]
    assert one["tags"][1] == "s1"
    assert hub.files(REPO)["model.safetensors"] != hub.files(REPO, "seed-1")["model.safetensors"]


def test_half_precision_goes_up_as_such(publish: Publish, hub: Hub, tmp_path: Path) -> None:
    publish(f"stage.repo={REPO}", "stage.dtype=bfloat16")
    model = AutoModelForCausalLM.from_pretrained(REPO)
    assert model.dtype is torch.bfloat16
    assert len(hub.files(REPO)["model.safetensors"]) < 40_000


def test_weights_are_cut_into_files_of_a_size(publish: Publish, hub: Hub) -> None:
    publish(f"stage.repo={REPO}", "stage.max_shard_size=20KB")
    names = [name for name in hub.files(REPO) if name.endswith(".safetensors")]
    assert len(names) > 1
    assert "model.safetensors.index.json" in hub.files(REPO)


@pytest.fixture
def adapters(chain: Path, tmp_path: Path) -> Path:
    """A DPO adapter on an SFT adapter on the chain's base."""
    from tests.conftest import composed

    for stage, given in {
        "sft": f"model.pretrained={chain}/almanac/base",
        "dpo": f"stage.policy={tmp_path}/l/sft",
    }.items():
        settings = composed(*tiny_overrides(stage, tmp_path), given, "adapter=lora", "stage.trainer.learning_rate=0.1")
        execute(settings, tmp_path / "l" / stage)
    return tmp_path / "l"


def test_an_adapter_on_an_adapter_goes_up_merged(publish: Publish, hub: Hub, adapters: Path) -> None:
    publish("stage.repo=alice/l-dpo", run=adapters / "dpo")
    assert "adapter_config.json" not in hub.files("alice/l-dpo")
    assert "base_model" not in metadata(hub.files("alice/l-dpo")["README.md"])
    AutoModelForCausalLM.from_pretrained("alice/l-dpo")


def test_an_adapter_goes_up_on_a_base_that_is_up(publish: Publish, hub: Hub, adapters: Path, tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="a local path that nobody else can load: set stage.weights=merged"):
        publish("stage.repo=alice/l-dpo", "stage.weights=adapter", run=adapters / "dpo")
    sent = publish("stage.repo=alice/l-dpo", "stage.weights=adapter", "stage.publish=chain", run=adapters / "dpo")
    files = hub.files("alice/l-dpo")
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("alice/l-sft", sent[1]["commit"])
    assert "adapter_config.json" not in hub.files("alice/l-sft")
    data = metadata(files["README.md"])
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == ("alice/l-sft", "adapter", "peft")
    # A stage that starts from it loads the same commit.
    given = ["stage.policy=alice/l-dpo@v1", "stage.trainer.max_steps=1"]
    execute(composed(*tiny_overrides("dpo", tmp_path), *given), tmp_path / "next")
    assert Run.open(tmp_path / "next").manifest["parents"]["policy"]["revision"] == sent[2]["commit"]


def test_a_published_sft_is_the_parent_of_a_local_dpo_and_the_tree_stays_whole(
    publish: Publish, hub: Hub, tmp_path: Path, aligned: Path, capsys: pytest.CaptureFixture
) -> None:
    sent = publish("stage.repo=alice/almanac-sft", "stage.publish=chain", run=aligned / "almanac" / "sft")
    commit = sent[-1]["commit"]
    execute(composed(*tiny_overrides("dpo", tmp_path), "stage.policy=alice/almanac-sft"), tmp_path / "d" / "dpo")
    parent = Run.open(tmp_path / "d" / "dpo").manifest["parents"]["policy"]
    assert (parent["path"], parent["revision"], parent["stage"]) == ("alice/almanac-sft", commit, "sft")
    assert [one["stage"] for one in parent["run"]["lineage"]] == ["base"]

    publish("stage.repo=alice/mine-dpo", "stage.publish=chain", run=tmp_path / "d" / "dpo")
    assert ("models", "alice/mine-sft") not in hub.repos  # it is up already
    written = json.loads(hub.files("alice/mine-dpo")["run.json"])
    assert [one["stage"] for one in written["lineage"]] == ["base", "sft"]
    assert "run" not in written["parents"]["policy"]
    card = hub.files("alice/mine-dpo")["README.md"].decode()
    assert metadata(card.encode())["base_model"] == "alice/almanac-sft"
    assert f"revision `{commit[:12]}`" in card

    capsys.readouterr()
    execute(composed("stage=status", f"checkpoints={tmp_path / 'd'}"), Path("unused"))
    assert f"alice/almanac-sft@{commit[:7]}" in " ".join(capsys.readouterr().out.split())


def test_ppo_starts_from_a_policy_and_a_reward_model_on_the_hub(
    publish: Publish, hub: Hub, aligned: Path, tmp_path: Path
) -> None:
    sent = publish("stage.repo=alice/almanac-reward", "stage.publish=chain", run=aligned / "almanac" / "reward")
    given = ["stage.policy=alice/almanac-sft@v1", "stage.reward=alice/almanac-reward@v1"]
    execute(composed(*tiny_overrides("ppo", tmp_path), *given), tmp_path / "ppo")
    found, here = Run.open(tmp_path / "ppo"), Run.open(aligned / "almanac" / "ppo")
    assert found.manifest["parents"]["reward"]["revision"] == sent[-1]["commit"]
    assert found.manifest["weights"] == here.manifest["weights"]  # the same parents, the same bits


def test_what_is_asked_for_besides(publish: Publish, hub: Hub, aligned: Path) -> None:
    given = ["stage.collection=A title", "stage.samples=1", "stage.verify=false", "stage.private=false"]
    compare = f"stage.compare={aligned}/almanac/compare"
    publish("stage.repo=alice/s", "stage.publish=chain", compare, *given, run=aligned / "almanac" / "sft")
    assert [one["title"] for one in hub.collections.values()] == ["A title"]
    assert not hub.repos["models", "alice/s"].private
    assert not [request for request in hub.requests if "/resolve/" in request]
    samples = hub.files("alice/s")["README.md"].decode().partition("## Samples")[2].partition("\n## ")[0]
    assert len([line for line in samples.splitlines() if line.startswith("|")]) == 3
    with pytest.raises(LineageError, match="nothing/compare, which does not exist: set stage.compare to a run"):
        publish("stage.repo=alice/s", "stage.compare=/nothing/compare")


def test_a_run_on_the_hub_of_the_wrong_stage_is_refused(
    publish: Publish, hub: Hub, tmp_path: Path, aligned: Path
) -> None:
    publish("stage.repo=alice/almanac-reward", run=aligned / "almanac" / "reward")
    with pytest.raises(LineageError, match="is a run of stage=reward, and stage=dpo starts from one of sft, raft, "):
        execute(composed(*tiny_overrides("dpo", tmp_path), "stage.policy=alice/almanac-reward"), tmp_path / "dpo")


SECRETS = {
    "WANDB_API_KEY": "3b1f0c77aa2d4e9f",
    "MY_SECRET": "correct-horse-battery-staple",
    "HF_TOKEN": "hf_alicewrites01",
}


def test_no_secret_leaves_the_machine(
    publish: Publish, hub: Hub, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted in the environment, in the settings, in logs, samples and the report; the server has every byte."""
    monkeypatch.setattr("socket.gethostname", lambda: "bigbox-17")
    shutil.copytree(aligned / "almanac", tmp_path / "almanac")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    planted = [*SECRETS.values(), "ghp_0123456789abcdefghij0123", "hunter2:swordfish"]
    ppo, compare = tmp_path / "almanac" / "ppo", tmp_path / "almanac" / "compare"
    manifest = json.loads((ppo / "run.json").read_text())
    manifest["settings"]["tracker"]["project"] = f"see {planted[0]} {planted[3]}"
    manifest["settings"]["data"]["name"] = planted[1]
    manifest["command"] += f" +stage.password={planted[1]} data.path=https://{planted[4]}@host/x checkpoints={tmp_path}"
    manifest["notes"] = {"log": f"{Path.home()}/private/notes on bigbox-17"}
    (ppo / "run.json").write_text(json.dumps(manifest))
    row = {"step": 2, "prompt": f"My key is {planted[0]}", "completion": f"{planted[3]} <b>bold</b> | {planted[2]}"}
    (ppo / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (ppo / "metrics.jsonl").write_text((ppo / "metrics.jsonl").read_text() + json.dumps({"note": planted[1]}) + "\n")
    (compare / "report.md").write_text((compare / "report.md").read_text() + "\n".join(planted[:4]))

    publish(f"stage.repo={REPO}", "stage.publish=chain", run=ppo)
    sent = b"\n".join([*hub.received, *(content for name in (*PARENTS, REPO) for content in hub.files(name).values())])
    for secret in (*planted, str(tmp_path), str(aligned), "bigbox-17", "/private/notes"):
        assert secret.encode() not in sent, secret
    # The token is sent only to the Hub, and only in the header for it.
    lines = [line for headers in hub.headers for line in headers.splitlines() if SECRETS["HF_TOKEN"] in line]
    assert lines
    assert {line.partition(":")[0].lower() for line in lines} == {"authorization"}
    assert (
        "&lt;b&gt;" in hub.files(REPO)["README.md"].decode() or "&#60;b&#62;" in hub.files(REPO)["README.md"].decode()
    )


def test_a_secret_that_cannot_be_taken_out_stops_everything(
    publish: Publish, hub: Hub, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(aligned / "almanac" / "ppo", tmp_path / "almanac" / "ppo")
    monkeypatch.setenv("MY_SECRET", "fourteen4words")
    template = tmp_path / "almanac" / "ppo" / "model" / "chat_template.jinja"
    template.write_text("{# fourteen4words #}" + template.read_text())
    path = tmp_path / "almanac" / "ppo" / "run.json"
    manifest = json.loads(path.read_text())
    del manifest["tokenizer"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(HubError, match=r"chat_template.jinja contains a secret of the environment; nothing is sent"):
        publish(f"stage.repo={REPO}", run=tmp_path / "almanac" / "ppo")
    assert ("models", REPO) not in hub.repos


def test_a_full_disk_while_fetching_back(publish: Publish, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is there, untagged, since nobody has seen it load; the same command completes it."""

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rlhf.publishing.verify.snapshot_download", full)
    with pytest.raises(RunError, match="the disk is full while writing .*publish: free some space"):
        publish(f"stage.repo={REPO}")
    assert hub.repos["models", REPO].tags == {}
    monkeypatch.undo()


def test_a_path_that_is_not_a_run_is_refused(publish: Publish, hub: Hub, aligned: Path) -> None:
    with pytest.raises(LineageError, match=r"stage.run=.*/sft/model is not a run"):
        publish(f"stage.repo={REPO}", run=aligned / "almanac" / "sft" / "model")


def test_a_chain_that_starts_from_a_local_folder(publish: Publish, hub: Hub, aligned: Path, tmp_path: Path) -> None:
    """The folder is local: the card names its repository on the Hub, or says that it has none."""
    tiny = [item for item in tiny_overrides("sft", tmp_path) if not item.startswith("model.")]
    local = ["model=local", f"model.path={aligned}/almanac/base/model", "model.chat_template=almanac"]
    execute(composed(*tiny, *local), tmp_path / "sft")
    with pytest.raises(LineageError, match="which nobody else has: set stage.base=org/name, its Hub id, or"):
        publish("stage.repo=alice/sft", run=tmp_path / "sft")
    publish("stage.repo=alice/sft", "stage.base=none", run=tmp_path / "sft")
    assert "base_model" not in metadata(hub.files("alice/sft")["README.md"])
    publish("stage.repo=alice/base", run=aligned / "almanac" / "base")
    publish("stage.repo=alice/sft", "stage.base=alice/base@v1", run=tmp_path / "sft")
    assert metadata(hub.files("alice/sft")["README.md"])["base_model"] == "alice/base"


def test_the_settings_are_checked(settings: Callable[..., Settings]) -> None:
    stage = settings("publish").stage
    for key, value in {
        "repo": "almanac", "dry_run": False, "branch": "a b", "max_shard_size": "five", "parent_commit": "abc",
        "base": "x", "attempts": 0, "wait": -1.0, "samples": -1, "tag": "-v",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"stage.{key} must"):
            replace(stage, **{key: value})


def test_a_run_that_changed_nothing_is_published_with_a_line(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = [f"model.pretrained={chain}/almanac/base", "stage.trainer.max_steps=1", "stage.trainer.warmup_steps=0.5"]
    execute(composed(*tiny_overrides("sft", tmp_path), *own), tmp_path / "almanac" / "sft")
    made = read_manifest(tmp_path / "almanac" / "sft")
    assert made["weights"] == made["parents"]["policy"]["digest"]
    given = [f"stage.run={tmp_path}/almanac/sft"]
    execute(composed(*tiny_overrides("publish", tmp_path), *given), tmp_path / "publish")
    assert "training changed nothing" in capsys.readouterr().out
    card = (tmp_path / "publish" / "bundles" / "almanac-sft" / "README.md").read_text()
    assert "trained from almanac/base" in card


def test_the_bundle_of_another_run_stays(publish: Publish, aligned: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "publish" / "bundles"
    publish(run=aligned / "almanac" / "sft")
    first = (bundles / "almanac-sft" / "README.md").stat().st_ino
    publish(run=aligned / "almanac" / "dpo")
    assert sorted(path.name for path in bundles.iterdir()) == ["almanac-dpo", "almanac-sft"]
    assert (bundles / "almanac-sft" / "README.md").stat().st_ino == first
    publish(run=aligned / "almanac" / "sft")
    assert (bundles / "almanac-sft" / "README.md").stat().st_ino != first
    assert not list(tmp_path.glob(".publish.partial"))


def test_a_kill_is_followed_by_another_try(
    publish: Publish, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept_work(run: Run, *_: str) -> None:  # as a kill keeps it
        run._close()

    with monkeypatch.context() as patched:
        patched.setattr(Run, "stop", kept_work)
        patched.setattr("rlhf.publishing.card.write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(run=aligned / "almanac" / "sft")
    assert list((tmp_path / ".publish.partial" / "bundles").iterdir())
    publish("resume=true", run=aligned / "almanac" / "sft")
    assert (tmp_path / "publish" / "bundles" / "almanac-sft" / "README.md").exists()


def test_a_local_root_is_refused_before_anything_is_imported(
    aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(aligned / "almanac" / "sft", tmp_path / "sft")
    made = read_manifest(tmp_path / "sft")
    made["parents"]["policy"] |= {"stage": None, "path": "my_model"}
    (tmp_path / "sft" / "run.json").write_text(json.dumps(made))
    monkeypatch.setattr("rlhf.stages._prepare", None)
    given = composed(*tiny_overrides("publish", tmp_path), f"stage.run={tmp_path}/sft")
    with pytest.raises(
        LineageError, match="the chain starts from the local path my_model, .*: set stage.base=org/name"
    ):
        execute(given, tmp_path / "publish")
    assert not (tmp_path / ".publish.partial").exists()
