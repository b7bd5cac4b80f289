"""The number of processes, and strategies that are refused before a process is started."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType

from rlhf.config import Hardware, Strategy
from rlhf.errors import ConfigError, TrainingError
from rlhf.hardware import ranks
from tests.conftest import composed


def hardware(*overrides: str) -> Hardware:
    return composed("stage=sft", *overrides).hardware


def test_a_single_process() -> None:
    assert not ranks.started()
    assert (ranks.size(), ranks.rank(), ranks.is_main()) == (1, 0, True)
    assert ranks.told("this") == "this"
    assert ranks.anywhere(True)
    assert not ranks.anywhere(False)
    ranks.wait()
    ranks.join(hardware("hardware=cpu"))
    assert ranks.record(hardware("hardware=cpu")) == {"processes": 1, "strategy": "none"}


def test_one_of_several_processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not ranks.started()  # a scheduler may set only this one
    monkeypatch.setenv("RANK", "3")
    assert ranks.started()
    assert (ranks.size(), ranks.rank(), ranks.is_main()) == (4, 3, False)
    assert ranks.asked(hardware("hardware=cpu")) == 4
    assert ranks.strategy_of(hardware("hardware=cpu")) is Strategy.ddp
    with ranks.one_speaks():
        print("unheard")
    print("heard")
    assert capsys.readouterr().out == "heard\n"
    with pytest.raises(ConfigError, match=r"asked for 2 processes \(hardware.processes=2, .*\), but 4 were started"):
        ranks.join(hardware("hardware=ddp", "hardware.processes=2"))


@pytest.mark.parametrize(("processes", "gpus", "backend"), [(2, 1, "gloo"), (2, 2, "cuda:nccl,cpu:gloo")])
def test_processes_that_share_a_gpu_use_gloo(
    processes: int, gpus: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert ranks.backend(gpus) == backend


def test_the_number_of_processes_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks.asked(hardware("hardware=cpu")) == 1
    assert ranks.asked(hardware("hardware=ddp", "hardware.processes=3")) == 3
    machines = ("hardware.nodes=2", "hardware.rendezvous=host0:29400", "hardware.node_rank=1")
    assert ranks.asked(hardware("hardware=ddp", "hardware.processes=3", *machines)) == 6
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert ranks.asked(hardware("hardware=ddp")) == 8
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        ConfigError, match=r"hardware=ddp starts one process per GPU, and torch sees no GPU: .*processes=2"
    ):
        ranks.asked(hardware("hardware=ddp"))


def test_slurm_variables_identify_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NNODES": "4", "SLURM_NODEID": "2", "MASTER_ADDR": "node7", "SLURM_JOB_ID": "99"}.items():
        monkeypatch.setenv(name, value)
    found = hardware("hardware=slurm", "hardware.processes=8")
    assert (found.nodes, found.node_rank, found.rendezvous, found.run_id) == (4, 2, "node7:29400", "rlhf-99")
    assert ranks.asked(found) == 32


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_zero2", "deepspeed_zero3"])
def test_shards_need_gpus_and_deepspeed_its_package(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = hardware(f"hardware={strategy}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"hardware.strategy={strategy} needs GPUs and torch sees none"):
        ranks.check_strategy(settings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if strategy == "fsdp":
        ranks.check_strategy(settings)
        return
    with pytest.raises(ConfigError, match=r"needs a package that is not installed: pip install 'rlhf\[deepspeed\]'"):
        ranks.check_strategy(settings)


@pytest.mark.parametrize(
    ("processes", "kind", "strategy", "message"),
    [
        (2, DistributedType.MULTI_CPU, Strategy.none, "accelerate sees 2 processes instead of 1"),
        (1, DistributedType.NO, Strategy.fsdp, "hardware.strategy=fsdp, but accelerate uses NO"),
        (1, DistributedType.MULTI_CPU, Strategy.fsdp, "hardware.strategy=fsdp, but accelerate uses MULTI_CPU"),
        (1, DistributedType.FSDP, Strategy.fsdp, "hardware.strategy=fsdp means FSDP2, but accelerate uses FSDP1"),
        (1, DistributedType.MULTI_GPU, Strategy.deepspeed_zero3, "accelerate uses MULTI_GPU"),
    ],
)
def test_a_silent_fallback_of_accelerate_raises(
    processes: int, kind: DistributedType, strategy: Strategy, message: str
) -> None:
    accelerator = SimpleNamespace(num_processes=processes, distributed_type=kind, is_fsdp2=False)
    with pytest.raises(TrainingError, match=message):
        ranks.check(accelerator, strategy)


def test_the_strategy_of_the_settings_passes() -> None:
    for kind, strategy in {
        DistributedType.NO: Strategy.none,
        DistributedType.MULTI_GPU: Strategy.ddp,
        DistributedType.FSDP: Strategy.fsdp,
        DistributedType.DEEPSPEED: Strategy.deepspeed_zero2,
    }.items():
        ranks.check(SimpleNamespace(num_processes=1, distributed_type=kind, is_fsdp2=True), strategy)
