"""The architecture that a stage starts from, without its weights: from a run, a configuration or the settings."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from rlhf.config import Adapter, AdapterKind, Dtype, Settings
from rlhf.config.library_errors import blame
from rlhf.errors import LineageError, ModelError
from rlhf.hardware.memory import NF4, Shape
from rlhf.modeling import adapters, loading
from rlhf.modeling.foreign import without_storage
from rlhf.modeling.generation import seeded
from rlhf.planning.activations import Family, Pass, family_of
from rlhf.ppo.shared_base import shell_of
from rlhf.runs.parents import Parent, hub_parent
from rlhf.storage.manifest import read_manifest

WIDTHS = {Dtype.float32: 4, Dtype.bfloat16: 2, Dtype.float16: 2}


class Size(NamedTuple):
    """A model's parameters and their bytes, the bytes of the largest one, and the parameters of a new adapter."""

    shape: Shape
    parameters: int
    weights: int
    largest: int
    adapter: int


def measure(config: PretrainedConfig, adapter: Adapter, dtype: Dtype) -> Size:
    """Measure a model on the meta device, without storage for its tensors."""
    width = WIDTHS[dtype]
    with without_storage():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    sizes = [parameter.numel() for parameter in model.parameters()]
    parameters, largest = sum(sizes), max(sizes)
    packed = 0
    if adapter.kind is AdapterKind.qlora:  # transformers does not quantize the output layer
        layers = (module for module in model.base_model.modules() if isinstance(module, nn.Linear))
        packed = sum(layer.weight.numel() for layer in layers)
    weights = int((parameters - packed) * width + packed * NF4)
    with seeded(0), init_empty_weights():
        adapted = adapters.adapt(model, adapter, adapters.TaskType.CAUSAL_LM)
    added = sum(value.numel() for value in adapted.parameters()) - parameters
    return Size(Shape.of(config), parameters, weights, largest * width, added)


def classifies(config: PretrainedConfig) -> int:
    """Return the parameters of a classifier with one output, or 0 if the architecture has none."""
    try:
        return sum(parameter.numel() for parameter in shell_of(config).parameters())
    except ModelError:
        return 0


class Architecture(NamedTuple):
    """A language model: ``classifier``, ``layer`` and ``outside`` count parameters.

    They are those of the same backbone with a head of one output, of one layer, and of everything outside the layers.
    ``width`` is in bytes per parameter, ``source`` names the origin of the configuration.
    """

    config: PretrainedConfig
    source: str
    size: Size
    classifier: int
    layer: int
    width: int

    @property
    def outside(self) -> int:
        """The parameters outside the layers."""
        return self.size.parameters - self.size.shape.layers * self.layer

    @property
    def family(self) -> Family:
        """The factors of activation memory."""
        return family_of(self.config.model_type)

    def passing(self, settings: Settings, *, mask: int, checkpointing: bool) -> Pass:
        """Return a forward pass in training; ``mask``: bytes per element of a dropout mask."""
        adapter = settings.adapter
        whole = adapter.kind is AdapterKind.none
        dropped = mask if adapter.dropout and not whole else 0
        rank = None if whole else adapter.rank
        return Pass(self.family, self.size.shape, self.width, rank, dropped, checkpointing)


def architecture(settings: Settings, shapes: dict[str, Any]) -> Architecture:
    """Return the architecture of the stage's policy, which every model of its chain has.

    Raises:
        LineageError: the settings do not describe it.
        ModelError: the configuration cannot be read.
    """
    config, source = find(settings, shapes)
    return drawn_up(Drawing(config, settings.adapter, settings.model.dtype))._replace(source=source)


@dataclass(frozen=True)
class Drawing:
    """The inputs of an architecture; equal ones are measured once, since each takes about a second."""

    config: PretrainedConfig
    adapter: Adapter
    dtype: Dtype

    def __hash__(self) -> int:
        return hash((self.config.to_json_string(), repr(self.adapter), self.dtype))

    def __eq__(self, other: object) -> bool:
        return hash(self) == hash(other)


@cache
def drawn_up(drawing: Drawing) -> Architecture:
    """Measure an architecture on the meta device, without storage for its tensors."""
    config = drawing.config
    size = measure(config, drawing.adapter, drawing.dtype)
    with without_storage():
        model = AutoModelForCausalLM.from_config(config)
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == size.shape.layers]
    layer = sum(value.numel() for value in stacks[0][0].parameters()) if stacks else 0
    return Architecture(config, "", size, classifies(config), layer, WIDTHS[drawing.dtype])


def drawn(settings: Settings, parent: Parent) -> Architecture:
    """Return the architecture of a parent."""
    return drawn_up(Drawing(loading.config(parent, settings.model), settings.adapter, settings.model.dtype))


def find(settings: Settings, shapes: dict[str, Any]) -> tuple[PretrainedConfig, str]:
    """Return the configuration and its source: the policy if it is available, else the first model of the chain."""
    policy = getattr(settings.stage, "policy", None)
    for path in (policy, settings.model.path):
        if path is not None and (parent := at_hand(path)) is not None:
            return loading.config(parent, settings.model), path
    for path in (policy, settings.model.path):
        name = (path or "").partition("@")[0]
        if name in shapes:
            with blame(f"stage.shapes.{name}"):
                return AutoConfig.for_model(**shapes[name]), f"stage.shapes.{name}"
    if settings.model.path is None:
        sizes = dict(settings.model.architecture or {})
        vocabulary = sizes.pop("vocabulary")
        with blame("model.architecture"):
            return LlamaConfig(**sizes, vocab_size=vocabulary), "model.architecture"
    if Path(settings.model.path).exists() or settings.model.path.count("/") > 1:
        raise LineageError(f"model.path={settings.model.path} has no config.json: set a model's folder or a Hub id")
    id, _, revision = settings.model.path.partition("@")
    parent = hub_parent("policy", id, revision or settings.model.revision)
    return loading.config(parent, settings.model), settings.model.path


def at_hand(path: str) -> Parent | None:
    """Return the finished run or local model at ``path``, or None."""
    folder = Path(path)
    manifest = read_manifest(folder)
    if manifest is not None:
        return Parent("policy", path, manifest) if manifest.get("status") == "finished" else None
    there = (folder / "config.json").is_file() or (folder / loading.ADAPTER).is_file()
    return Parent("policy", path, None) if there or (folder.suffix == ".gguf" and folder.is_file()) else None
