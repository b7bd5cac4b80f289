import pytest

from rlhf.errors import ConfigError
from tests.conftest import composed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.holdout=1"], "data.holdout must lie between 0 and 1, got 1.0"),
        (["adapter.rank=0"], "adapter.rank must be positive, got 0"),
        (["hardware.device=tpu"], "hardware.device must be auto, cpu or cuda, got 'tpu'"),
        (["seed=-1"], "seed must lie in"),
        (["overwrite=true", "resume=true"], "contradict each other"),
        (["adapter.target_modules=3"], "adapter.target_modules must be null, a pattern or a list of names, got 3"),
        (["adapter.target_modules=[q_proj,3]"], r"be null, a pattern or a list of names, got \['q_proj', 3\]"),
        (["adapter.target_modules=[]"], r"be null, a pattern or a list of names, got \[\]"),
        (["~model.architecture.vocabulary"], "model.architecture.vocabulary must be a whole number, got None"),
        (["model.architecture.vocabulary=many"], "model.architecture.vocabulary must be a whole number, got 'many'"),
        (["model.architecture=null"], "model.path is null and model.architecture is null"),
    ],
)
def test_a_broken_rule_names_key_and_value(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)
