"""The functions that tests run in two processes, in a module that a rank can import."""

import os
import signal
from pathlib import Path
from typing import Any

from rlhf import stages
from rlhf.config import Settings
from rlhf.errors import DataError
from rlhf.hardware import ranks
from rlhf.runs.identity import Origin


def stages_and_shards(jobs: list[tuple[Settings, Path]], folder: Path) -> dict[str, Any]:
    """Run stages one after the other, then the messages between processes, then a model in shards."""
    for settings, directory in jobs:
        stages._perform(settings, directory, [], Origin.of(settings))
    seen = {"told": ranks.told(f"of {ranks.rank()}"), "anywhere": [ranks.anywhere(ranks.rank() == i) for i in range(3)]}
    shards(folder)
    return seen


def shards(folder: Path) -> None:
    """A whole model and the same in FSDP2's shards take one step; each is saved, and so is an adapter in shards."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoTokenizer

    from rlhf.modeling import loading

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    mesh = init_device_mesh("cpu", (ranks.size(),))
    for name, adapted in {"whole": False, "shards": False, "adapter_whole": True, "adapter_shards": True}.items():
        model = model_of(len(tokenizer), tokenizer.pad_token_id, adapted)
        if name.endswith("shards"):
            for module in model.modules():
                if type(module).__name__ == "LlamaDecoderLayer":
                    fully_shard(module, mesh=mesh)
            fully_shard(model, mesh=mesh)
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
        ids = torch.arange(20).view(2, 10) + 5  # the same in each rank: its mean over the ranks is that of one
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        parent = type("Parent", (), {"model": "base"})
        loading.save(model, tokenizer, folder / name, parent)


def model_of(vocabulary: int, pad: int, adapted: bool) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, pad_token_id=pad, **sizes))
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return get_peft_model(model, config) if adapted else model


def dying(settings: Settings, directory: Path, overrides: list[str], origin: Origin) -> dict[str, float]:
    """A stage whose second process is killed when the first checkpoint is there."""
    from rlhf.training.exact_resume import Keeper

    saved = Keeper.on_save

    def on_save(*arguments: Any, **named: Any) -> None:
        saved(*arguments, **named)
        if ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Keeper.on_save = on_save
    return stages._perform(settings, directory, overrides, origin)


def failing(how: str) -> int:
    """The second process fails; the first would wait for it for ever."""
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    if ranks.rank() == 1:
        if how == "refused":
            raise DataError("row 7 of mine.jsonl has no prompt")
        if how == "broken":
            raise ZeroDivisionError("by nothing")
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.wait()
    return ranks.rank()
