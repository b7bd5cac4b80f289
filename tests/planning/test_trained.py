"""Ledgers of stages with a Trainer: compared with the models that are built, and properties of every ledger."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.modeling import adapters
from rlhf.planning.estimate import Outlook, look_ahead
from rlhf.planning.trained import TOKENIZER
from tests.conftest import FAST, TINY, composed
from tests.planning.conftest import ROWS, plan_of

Ahead = Callable[..., Outlook]
MANY = "stage.trainer.per_device_train_batch_size=512"  # so that activations exceed weights and optimizer state
EIGHT = ("stage.device=a100-80gb", "stage.gpus=8")


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_weights_agree_with_the_loaded_model(adapter: str, stage: str, tmp_path: Path) -> None:
    given = (f"checkpoints={tmp_path}", "hardware=cpu", *TINY, *FAST[stage], f"adapter={adapter}")
    settings = composed(f"stage={stage}", *given)
    outlook = look_ahead(settings, plan_of(), ROWS[stage])
    config = outlook.model.config
    config.num_labels = 1
    kind = AutoModelForCausalLM if stage == "sft" else AutoModelForSequenceClassification
    task = adapters.TaskType.CAUSAL_LM if stage == "sft" else adapters.TaskType.SEQ_CLS
    model = kind.from_config(config, dtype=torch.float32)
    if adapter == "lora":
        model = get_peft_model(model, adapters.lora(settings.adapter, task, model))
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    [role] = [role for role in outlook.ledger.roles if role.trainable]
    assert role.trainable == trained
    assert (role.gradients, role.optimizer) == (4 * trained, 8 * trained)
    assert role.weights == sum(value.nbytes for value in model.parameters())


@pytest.mark.parametrize("stage", ["base", "sft", "reward", "dpo", "kto"])
def test_properties_of_every_stage(stage: str, ahead: Ahead) -> None:
    whole = ahead(stage, MANY).ledger
    more = ahead(stage, "stage.trainer.per_device_train_batch_size=1024").ledger
    spared = ahead(stage, MANY, "stage.trainer.activation_checkpointing=true").ledger
    adapters = ahead(stage, MANY, "adapter=lora").ledger
    packed = ahead(stage, MANY, "adapter=qlora").ledger
    assert more.peak > whole.peak > spared.peak
    assert sum(role.optimizer for role in adapters.roles) < sum(role.optimizer for role in whole.roles) / 10
    assert ahead(stage, "adapter=lora").ledger.peak < ahead(stage).ledger.peak
    assert sum(role.weights for role in packed.roles) < sum(role.weights for role in adapters.roles)


def test_dpo_has_a_reference_unless_the_adapter_is_switched_off(ahead: Ahead) -> None:
    assert [role.name for role in ahead("dpo").ledger.roles] == ["policy", "reference"]
    assert [role.name for role in ahead("dpo", "adapter=lora").ledger.roles] == ["policy"]


def test_a_cached_reference_is_not_loaded_in_training(ahead: Ahead) -> None:
    """Its pass comes first, by the policy; it is loaded again for the held-out comparison."""
    kept, beside = (ahead("dpo", f"stage.cache_reference={given}").ledger for given in ("true", "false"))
    phases = {phase.name: phase for phase in kept.phases}
    assert kept.phases[0].name == "reference"
    assert (phases["reference"].optimizer, phases["reference"].holds) == ((), ("policy",))
    assert kept.weights(phases["loss"]) == kept.roles[0].weights
    assert kept.weights(phases["held out"]) == beside.weights(beside.phases[0]) == 2 * kept.roles[0].weights
    assert "held out" not in {phase.name for phase in ahead("dpo", "eval_set.prompts=0").ledger.phases}


def test_a_loss_without_a_reference_plans_none(ahead: Ahead) -> None:
    """The policy at its start is loaded at the end, for the held-out comparison."""
    simpo = ahead("dpo", "stage.loss=[simpo]")
    assert simpo.work.read == 0
    assert simpo.ledger.phases[0].name == "loss"
    *training, last = simpo.ledger.phases
    assert {simpo.ledger.weights(phase) for phase in training} == {simpo.ledger.roles[0].weights}
    assert (last.name, simpo.ledger.weights(last)) == ("held out", 2 * simpo.ledger.roles[0].weights)
    unmeasured = ahead("dpo", "stage.loss=[simpo]", "eval_set.prompts=0").ledger
    assert [role.name for role in unmeasured.roles] == ["policy"]


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_shared_prompts_are_counted_once(stage: str, ahead: Ahead) -> None:
    shared, apart = (ahead(stage, MANY, f"stage.shared_prefix={given}") for given in ('"auto"', '"off"'))
    assert shared.work.passed == 512 * (30 + 20 + 10)
    assert apart.work.passed == 512 * 2 * 50
    assert shared.ledger.peak < apart.ledger.peak
    assert shared.work.trained < apart.work.trained


def test_gradients_stay_where_they_add_up(ahead: Ahead) -> None:
    once, twice = ahead("sft"), ahead("sft", "stage.trainer.gradient_accumulation_steps=2")
    [loss_once], [loss_twice] = (
        [phase for phase in one.ledger.phases if phase.name == "loss"] for one in (once, twice)
    )
    added = twice.ledger.total(loss_twice) - once.ledger.total(loss_once)
    assert added == twice.ledger.roles[0].gradients > 0


def test_gpus_that_divide_hold_less(ahead: Ahead) -> None:
    by = {name: ahead("dpo", plan=(*EIGHT, f"stage.strategy={name}")) for name in ("ddp", "fsdp", "deepspeed_zero3")}
    assert by["fsdp"].ledger.peak < by["ddp"].ledger.peak
    assert by["deepspeed_zero3"].ledger.peak < by["ddp"].ledger.peak
    assert by["ddp"].ledger.peak > ahead("dpo").ledger.peak  # the buckets


def test_half_precision_halves_what_stays(ahead: Ahead) -> None:
    half, single = ahead("sft"), ahead("sft", "model.dtype=float32")
    assert 2 * half.ledger.roles[0].optimizer == single.ledger.roles[0].optimizer


def test_without_a_gpu_the_file_is_resident_while_it_is_read(ahead: Ahead) -> None:
    phases = {phase.name: phase for phase in ahead("dpo", "hardware=cpu", plan=()).ledger.phases}
    assert phases["loading"].other == 1_235_814_400 * 2
    assert "loading" not in {phase.name for phase in ahead("dpo").ledger.phases}


def test_memory_of_a_process_besides_models(ahead: Ahead) -> None:
    """A tokenizer; frozen embeddings that are only looked up, 128,256 entries of 2048, are hardly resident."""
    assert ahead("sft", "hardware=cpu", plan=()).ledger.beside == 128_256 * TOKENIZER
    assert ahead("reward", "hardware=cpu", plan=()).ledger.beside == 128_256 * TOKENIZER
    frozen = ahead("reward", "hardware=cpu", "adapter=lora", plan=()).ledger
    assert frozen.beside == 128_256 * (TOKENIZER - 2 * 2048)
    assert ahead("ppo", "hardware=cpu", plan=()).ledger.beside == 128_256 * TOKENIZER * 2
    assert ahead("sft").ledger.beside == 0


def test_the_report_card_is_written_beside_the_policy(ahead: Ahead) -> None:
    ledger = ahead("reward").ledger
    [card] = [phase for phase in ledger.phases if phase.name == "report card"]
    [loss] = [phase for phase in ledger.phases if phase.name == "loss"]
    assert ledger.weights(card) == sum(role.weights for role in ledger.roles)
    assert ledger.weights(loss) == ledger.roles[0].weights


def test_activations_in_the_hosts_memory(ahead: Ahead) -> None:
    offloaded = ahead("sft", MANY, "+stage.trainer.activation_offloading=true")
    assert offloaded.ledger.peak < ahead("sft", MANY).ledger.peak
