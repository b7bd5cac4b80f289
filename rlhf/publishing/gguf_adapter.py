"""A LoRA adapter as a GGUF file, which llama.cpp adds to the GGUF file of the base.

W + α/r B A: A (r, in) is ``<weight>.lora_a``, B (out, r) ``<weight>.lora_b``, α ``adapter.lora.alpha``, r the rank of
each pair. A module with another scale than α/r, as in rsLoRA or with patterns, has it multiplied into B.
"""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer

from rlhf.config import Quantization
from rlhf.errors import ConfigError, ModelError
from rlhf.modeling.bases import adapter_folder
from rlhf.publishing import gguf_weights
from rlhf.publishing.gguf_layout import ARCHITECTURES, Names, library
from rlhf.runs.parents import Parent


def check(named: str, parent: Parent) -> Path:
    """Return the folder of a run's adapter, if it can be written.

    Raises:
        ConfigError: the run has whole weights.
        ModelError: the adapter is not plain LoRA.
    """
    folder = adapter_folder(parent)
    if folder is None:
        raise ConfigError(f"stage.weights=adapter needs an adapter, and {named} has whole weights: set it to merged")
    config = PeftConfig.from_pretrained(str(folder))
    plain = isinstance(config, LoraConfig) and config.bias == "none"
    if not plain or config.use_dora or config.modules_to_save or config.trainable_token_indices:
        raise ModelError(f"{named} has more than LoRA's two matrices per weight: set stage.weights=merged")
    return folder


def write(file: Path, base: Any, folder: Path, title: str, quantization: Quantization) -> list[str]:
    """Write the adapter in ``folder`` on the model ``base``; return the matrices that are f16 instead of in blocks.

    Raises:
        ModelError: an adapted weight has no name in GGUF.
    """
    gguf, config = library(), base.config
    adapted: Any = PeftModel.from_pretrained(base, str(folder))
    alpha = float(adapted.peft_config["default"].lora_alpha)
    writer = gguf.GGUFWriter(file, ARCHITECTURES[config.model_type])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(title)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    names, other = Names(config), []
    for module, layer in adapted.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name, a, b = names(f"{module}.weight"), *(getattr(layer, f"lora_{side}")["default"].weight for side in "AB")
        b = b.detach() * (layer.scaling["default"] * len(a) / alpha)
        for end, matrix in (("lora_a", a), ("lora_b", names.rows_to_ggml(name, b))):
            other += gguf_weights.add(writer, f"{name}.{end}", matrix.detach().cpu().float(), quantization)
    adapted.unload()
    gguf_weights.finish(writer)
    return other


@torch.no_grad()
def apply(file: Path, base: Any) -> Any:
    """Return ``base`` with the adapter in a GGUF file merged, as its matrices and its α say."""
    gguf = library()
    reader = gguf.GGUFReader(file)
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    found = {
        tensor.name: torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors
    }
    names = Names(base.config)
    for own, weight in base.named_parameters():
        name = names(own) if f"{names(own)}.lora_a" in found else None
        if name is not None:
            a, b = found.pop(f"{name}.lora_a"), found.pop(f"{name}.lora_b")
            weight += (alpha / len(a) * names.from_ggml(name, b @ a)).to(weight)
    if found:
        raise ModelError(f"{file.name} adapts {min(found)}, which the base does not have: run the command again")
    return base
