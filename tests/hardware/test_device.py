from collections.abc import Callable

import pytest
import torch

from rlhf.config import Settings
from rlhf.errors import ModelError
from rlhf.hardware.device import torch_device


def test_a_gpu_that_is_not_there(settings: Callable[..., Settings]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert torch_device(settings("sft", "hardware=auto").hardware).type == "cpu"
    with pytest.raises(ModelError, match="torch sees no GPU"):
        torch_device(settings("sft", "hardware=gpu").hardware)


@pytest.mark.parametrize(
    ("hardware", "there", "device"), [("auto", True, "cuda"), ("cpu", True, "cpu"), ("auto", False, "cpu")]
)
def test_a_gpu_is_used_if_there_is_one(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, hardware: str, there: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert torch_device(settings("sft", f"hardware={hardware}").hardware).type == device
