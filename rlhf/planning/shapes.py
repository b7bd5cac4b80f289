"""The architecture that a stage starts from, without its weights: from what is at hand, or as it is stated."""

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
from rlhf.modeling.generation import seeded
from rlhf.planning.activations import Family, Pass, family_of
from rlhf.ppo.shared_base import shell_of
from rlhf.runs.parents import Parent, hub_parent
from rlhf.storage.manifest import read_manifest

WIDTHS = {Dtype.float32: 4, Dtype.bfloat16: 2, Dtype.float16: 2}


class Size(NamedTuple):
    """Of a language model: parameters and their bytes, the largest one's, and the parameters of a new adapter."""

    shape: Shape
    parameters: int
    weights: int
    largest: int
    adapter: int


def measure(config: PretrainedConfig, adapter: Adapter, dtype: Dtype) -> Size:
    """From the architecture alone: the model is made on the meta device, where tensors have shapes and no storage."""
    width = WIDTHS[dtype]
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    sizes = [parameter.numel() for parameter in model.parameters()]
    parameters, largest = sum(sizes), max(sizes)
    packed = 0
    if adapter.kind is AdapterKind.qlora:  # transformers leaves the output layer as it is
        layers = (module for module in model.base_model.modules() if isinstance(module, nn.Linear))
        packed = sum(layer.weight.numel() for layer in layers)
    weights = int((parameters - packed) * width + packed * NF4)
    with seeded(0), init_empty_weights():
        adapted = adapters.adapt(model, adapter, adapters.TaskType.CAUSAL_LM)
    added = sum(value.numel() for value in adapted.parameters()) - parameters
    return Size(Shape.of(config), parameters, weights, largest * width, added)


def classifies(config: PretrainedConfig) -> int:
    """Parameters of a classifier of one output: a head in the place of the output layer. 0: there is no such class."""
    try:
        return sum(parameter.numel() for parameter in shell_of(config).parameters())
    except ModelError:
        return 0


class Architecture(NamedTuple):
    """``size`` of the language model, ``classifier`` of the same backbone under a head of one output, in parameters.

    ``layer`` and ``outside`` are parameters, too: of one layer, and of all that lies in none.
    """

    config: PretrainedConfig
    source: str
    size: Size
    classifier: int
    layer: int
    width: int

    @property
    def outside(self) -> int:
        return self.size.parameters - self.size.shape.layers * self.layer

    @property
    def family(self) -> Family:
        return family_of(self.config.model_type)

    def passing(self, settings: Settings, *, mask: int, checkpointing: bool) -> Pass:
        """How tokens pass it while it learns; ``mask`` is the width of an element of a dropout mask."""
        adapter = settings.adapter
        whole = adapter.kind is AdapterKind.none
        dropped = mask if adapter.dropout and not whole else 0
        rank = None if whole else adapter.rank
        return Pass(self.family, self.size.shape, self.width, rank, dropped, checkpointing)


def architecture(settings: Settings, shapes: dict[str, Any]) -> Architecture:
    """That of the policy of ``settings.stage``, and so of every model of its chain.

    Raises:
        LineageError: nothing says what it is.
        ModelError: what is named cannot be read.
    """
    config, source = find(settings, shapes)
    return drawn_up(Drawing(config, settings.adapter, settings.model.dtype))._replace(source=source)


@dataclass(frozen=True)
class Drawing:
    """What an architecture is made from; equal ones are drawn up once, since each takes a second."""

    config: PretrainedConfig
    adapter: Adapter
    dtype: Dtype

    def __hash__(self) -> int:
        return hash((self.config.to_json_string(), repr(self.adapter), self.dtype))

    def __eq__(self, other: object) -> bool:
        return hash(self) == hash(other)


@cache
def drawn_up(drawing: Drawing) -> Architecture:
    """The models on the meta device, where tensors have shapes and no storage, and what they are made of."""
    config = drawing.config
    size = measure(config, drawing.adapter, drawing.dtype)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    stacks = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == size.shape.layers]
    layer = sum(value.numel() for value in stacks[0][0].parameters()) if stacks else 0
    return Architecture(config, "", size, classifies(config), layer, WIDTHS[drawing.dtype])


def find(settings: Settings, shapes: dict[str, Any]) -> tuple[PretrainedConfig, str]:
    """The configuration, and where it is from: the policy where it is at hand, else what the chain begins with."""
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
        given = {key: value for key, value in settings.model.architecture.items() if key != "vocabulary"}
        with blame("model.architecture"):
            return LlamaConfig(**given, vocab_size=settings.model.architecture["vocabulary"]), "model.architecture"
    if Path(settings.model.path).exists() or settings.model.path.count("/") > 1:
        raise LineageError(f"model.path={settings.model.path} holds no config.json: give a model's folder or a Hub id")
    id, _, revision = settings.model.path.partition("@")
    parent = hub_parent("policy", id, revision or settings.model.revision)
    return loading.config(parent, settings.model), settings.model.path


def at_hand(path: str) -> Parent | None:
    """A finished run or a model that lies here."""
    folder = Path(path)
    manifest = read_manifest(folder)
    if manifest is not None:
        return Parent("policy", path, manifest) if manifest.get("status") == "finished" else None
    there = (folder / "config.json").is_file() or (folder / loading.ADAPTER).is_file()
    return Parent("policy", path, None) if there or (folder.suffix == ".gguf" and folder.is_file()) else None
