"""Shapes: stated ones have the published number of parameters; the config of an available model takes precedence."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from rlhf.errors import ConfigError, LineageError
from rlhf.planning.shapes import architecture, find
from rlhf.storage.paths import bundled
from tests.conftest import composed
from tests.planning.conftest import plan_of

# Pythia: Biderman et al. 2023, table 1; the others: the sizes that their cards on the Hub show.
PUBLISHED = {
    "EleutherAI/pythia-160m-deduped": 162_322_944,
    "EleutherAI/pythia-1b-deduped": 1_011_781_632,
    "EleutherAI/pythia-2.8b-deduped": 2_775_208_960,
    "EleutherAI/pythia-6.9b-deduped": 6_857_302_016,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-large": 774_030_080,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "Qwen/Qwen3-0.6B-Base": 596_049_920,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_stated_shape_has_the_published_parameters(name: str) -> None:
    settings = composed("stage=sft", "experiment=none", "model=local", f"model.path={name}")
    found = architecture(settings, plan_of().shapes)
    assert found.size.parameters == PUBLISHED[name]
    assert found.source == f"stage.shapes.{name}"
    assert 0 < found.outside < found.size.parameters


def test_every_preset_from_the_hub_has_a_stated_shape() -> None:
    shapes = plan_of().shapes
    assert set(shapes) == set(PUBLISHED)
    for path in (bundled("conf") / "model").glob("*.yaml"):
        name = OmegaConf.to_container(OmegaConf.load(path), resolve=False)["path"]
        assert name is None or "$" in name or "?" in name or name in shapes, path.name


def test_by_hand() -> None:
    """Embedding 384·16, tied; a layer 4·16² + 3·16·32 + 2·16; the last norm 16. Under a head 16 weights more."""
    settings = composed(
        "stage=base", "model.architecture.vocabulary=384", "model.architecture.hidden_size=16",
        "model.architecture.intermediate_size=32", "model.architecture.num_hidden_layers=3",
    )  # fmt: skip
    found = architecture(settings, {})
    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16
    assert (found.layer, found.outside) == (layer, 384 * 16 + 16)
    assert found.size.parameters == 3 * layer + 384 * 16 + 16
    assert found.classifier == found.size.parameters + 16
    assert found.source == "model.architecture"


def test_an_available_policy_takes_precedence(chain: Path) -> None:
    run = chain / "almanac" / "sft"
    config, source = find(composed("stage=dpo", f"stage.policy={run}"), {})
    made = AutoModelForCausalLM.from_pretrained(run / "model")
    assert config.hidden_size == made.config.hidden_size == 16
    assert source == str(run)
    config, source = find(composed("stage=dpo", f"stage.policy={run}-that-is-not-there"), {})
    assert (config.hidden_size, source) == (128, "model.architecture")


def test_mistakes() -> None:
    settings = composed("stage=sft", "experiment=none", "model=local", "model.path=a/folder/of/nothing")
    with pytest.raises(LineageError, match="has no config.json"):
        find(settings, {})
    settings = composed("stage=sft", "experiment=none", "model=local", "model.path=org/name")
    with pytest.raises(ConfigError, match=r"stage\.shapes\.org/name"):
        find(settings, {"org/name": {"model_type": "no such type"}})
