from pathlib import Path

import pytest

from rlhf.errors import ConfigError
from rlhf.storage.json_files import write_json
from tests.conftest import composed, manifest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage.models=[x]"], "stage.models must name 2 or more runs"),
        (["stage.models=[]", "stage.policy=x"], "stage.models must name 1 or more runs"),
        (["stage.models=[nowhere/*,x]"], "stage.models must name 2 or more runs"),
        (["stage.weights=[1]"], r"stage.weights must have 2 numbers, one for each of \['checkpoints/almanac/dpo', 'ch"),
        (["stage.weights=[inf,1]"], r"stage.weights must lie in \[-1000, 1000\], got inf"),
        (["stage.weights=[0.5,0.6]"], "is not a mean, since the sum is not 1: change it, or set stage.policy"),
        (["stage.rank=8"], "stage.rank=8 merges adapters on one model: set stage.policy"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed("stage=merge", *overrides).stage.inputs()


def test_a_sweep_or_a_pattern_stands_for_its_runs(tmp_path: Path) -> None:
    for name in ("seed-1", "seed-0", ".seed-2.partial"):
        (tmp_path / "dpo" / name).mkdir(parents=True)
        write_json(tmp_path / "dpo" / name / "run.json", manifest("dpo"))
    for name in ("dpo/notes", "sft"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "sft" / "run.json", manifest("sft"))
    runs = [str(tmp_path / "dpo" / name) for name in ("seed-0", "seed-1")]
    for models in (f"{tmp_path}/dpo", f"{tmp_path}/dpo/seed-*"):
        stage = composed("stage=merge", f"stage.models=[{models},{tmp_path}/sft,org/name]").stage
        assert stage.members() == [*runs, f"{tmp_path}/sft", "org/name"]
        assert stage.shares() == [0.25] * 4
