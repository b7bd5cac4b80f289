"""One frozen language model in several roles: each role is a sum of adapters, optionally with its own head.

    y = W x + Σᵢ (αᵢ / rᵢ) Bᵢ Aᵢ x        i over the adapters of the role

Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3, with several adapters. W is in memory once and never trained;
at most the last adapter of a role is trained. peft holds the adapters; they are switched around each forward pass.
"""

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from rlhf.errors import ModelError
from rlhf.modeling.foreign import can_score, without_storage
from rlhf.modeling.fused_lora import fuse
from rlhf.modeling.loading import adapter_folder
from rlhf.ppo.critic import Critic
from rlhf.runs.parents import Parent

POLICY = "default"  # the adapter that peft saves at the top level of a folder
SCORE = "base_model.model.score.weight"  # the key of a reward model's head in its adapter file
# Fields in which the configurations of additive adapters may differ; any other one changes the formula.
SIZES = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "init_lora_weights",
)  # fmt: skip


class SharedBase:
    """A frozen base with the adapters of every role; ``model`` comes with one, the policy's.

    Switching the active adapters leaves ``requires_grad`` unchanged. peft's own methods disable it for inactive
    adapters, and autograd silently drops a gradient that arrives after another role's forward pass.
    """

    def __init__(self, model: PeftModel):
        self.model = model
        self.worn: tuple[str, ...] = (POLICY,)
        self.trained: list[nn.Parameter] = []
        self._settle()

    @property
    def causal(self) -> PreTrainedModel:
        """The language model without peft's wrapper."""
        base: Any = self.model.get_base_model()
        return base

    def add(self, name: str, config: LoraConfig) -> None:
        """Add a new adapter, drawn from torch's generator; it changes no output until it is trained."""
        self.model.add_adapter(name, config)
        self._settle()

    def load(self, name: str, folder: Path) -> Tensor | None:
        """Add the adapter in ``folder`` and return the head (1, h) that was saved with it, if any.

        Raises:
            ModelError: it is not an adapter on this base.
        """
        config = stored(folder)
        self.model.add_adapter(name, config, low_cpu_mem_usage=True)
        weights = {key: value.float() for key, value in load_peft_weights(str(folder), device="cpu").items()}
        head = weights.pop(SCORE, None)
        loaded = set_peft_model_state_dict(self.model, weights, adapter_name=name, low_cpu_mem_usage=True)
        wrong = [*loaded.unexpected_keys, *(key for key, value in self.parameters(name).items() if value.is_meta)]
        if wrong:
            raise ModelError(f"{folder} is not an adapter on this base: only one of the two has {wrong[0]}")
        self._settle()
        return head

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return the parameters of the adapter ``name``, by their names in ``model``."""
        found = self.model.named_parameters()
        return {key: value for key, value in found if "lora_" in key and name in key.split(".")[-2:]}

    def language_model(self, wears: Sequence[str], *, train: bool = False) -> "Role":
        """Return a role that predicts tokens; with ``train`` its last adapter is trained."""
        return Role(self, self.model, wears, self.parameters(wears[-1]) if train else {})

    def classifier(self, wears: Sequence[str], head: Tensor) -> "Role":
        """Return a frozen role that scores texts: transformers' classifier around the base, with a copy of ``head``."""
        return Role(self, classifier(self.causal, head), wears, {})

    def critic(self, wears: Sequence[str], head: Tensor) -> "Role":
        """Return a role that computes values; its last adapter and its copy of ``head`` are trained."""
        view = classifier(self.causal, head)
        own = self.parameters(wears[-1]) | {"score.weight": view.get_parameter("score.weight")}
        return Role(self, Critic(view), wears, own)

    @contextmanager
    def wearing(self, names: tuple[str, ...]) -> Generator[None]:
        """Activate the sum of these adapters within the context; afterwards restore the previous ones."""
        before = self.worn
        self._wear(names)
        try:
            yield
        finally:
            self._wear(before)

    def _wear(self, names: tuple[str, ...]) -> None:
        self.worn = names
        for layer in self._layers:
            # peft's set_adapter would also set every requires_grad, and takes about 10 ms for 30 layers.
            layer._active_adapter = list(names)

    def _settle(self) -> None:
        """Restore active adapters, eval mode and frozen base after peft has added an adapter."""
        self._layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        for layer in self._layers:
            layer.set_adapter(list(self.worn), inference_mode=True)
        self.model.requires_grad_(False).eval()
        fuse(self.model)
        self._thaw()

    def _thaw(self) -> None:
        for parameter in self.trained:
            parameter.requires_grad_(True)


class Role(nn.Module):
    """A model on a shared base that activates its adapters for each call.

    Its parameters are only those that it trains, so that optimizers, checkpoints and distributed wrappers do not see
    other roles. Other attributes are looked up in ``view``, the underlying model.
    """

    def __init__(self, shared: SharedBase, view: nn.Module, wears: Sequence[str], own: Mapping[str, nn.Parameter]):
        super().__init__()
        # Not registered as submodules, which have the parameters of all roles.
        self.__dict__.update(shared=shared, view=view)
        self.wears = tuple(wears)
        self.own = nn.ParameterDict()
        for name, value in own.items():  # one by one, since update() would sort them
            self.own[name.replace(".", "/")] = value
        shared.trained += self.own.values()
        view.requires_grad_(False).eval()
        shared._thaw()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with the role's adapters."""
        with self.shared.wearing(self.wears):
            return self.view(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's ``generate`` with the role's adapters."""
        with self.shared.wearing(self.wears):
            return self.view.generate(*args, **kwargs)

    def train(self, mode: bool = True) -> "Role":
        """Set only the mode of the role; the base is shared and stays in eval mode."""
        self.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Role":
        """Implement ``to(device)``: move the shared base and the head of this role."""
        self.shared.model._apply(fn)
        self.view._apply(fn)
        return super()._apply(fn, recurse)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(self.__dict__["view"], name)
        if isinstance(found, nn.Module):
            raise AttributeError(f"{name}, called directly, would use the adapters of another role: call the role")
        return found


class Head(nn.Linear):
    """A linear head: scores (..., 1) of hidden states (..., h), in the precision of its weights, float32."""

    def __init__(self, weight: Tensor):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight.detach().float().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Return scores (..., 1) of hidden states (..., h)."""
        return super().forward(input.to(self.weight.dtype))


def classifier(causal: PreTrainedModel, head: Tensor) -> PreTrainedModel:
    """Return a sequence classifier with one output that shares the backbone of ``causal``."""
    shell = shell_of(causal.config)
    shell.score = Head(head).to(causal.device)
    setattr(shell, shell.base_model_prefix, causal.base_model)
    return shell.eval()


def shell_of(config: PretrainedConfig) -> PreTrainedModel:
    """Return a classifier with one output, on the meta device.

    Raises:
        ModelError: transformers has no classifier of this architecture.
    """
    can_score(config)
    config = copy.deepcopy(config)
    config.num_labels = 1
    with without_storage():
        return AutoModelForSequenceClassification.from_config(config)


def stored(folder: Path) -> LoraConfig:
    """Return the configuration of the adapter in ``folder`` for any role, without the head that is saved with it."""
    config = PeftConfig.from_pretrained(str(folder))
    config.task_type = config.modules_to_save = None
    config.inference_mode = True
    return config


def adds_up(parent: Parent) -> bool:
    """Return whether ``parent``, an adapter, is a plain sum of low-rank matrices and so can be combined with others."""
    config, usual = PeftConfig.from_pretrained(str(adapter_folder(parent))), LoraConfig()
    if not isinstance(config, LoraConfig) or config.init_lora_weights not in (True, False, "gaussian"):
        return False
    others = [field.name for field in fields(LoraConfig) if field.name not in SIZES]
    heads = {"score", "classifier"}  # peft lists both names for a classifier with either
    return set(config.modules_to_save or ()) <= heads and all(
        getattr(config, name) == getattr(usual, name) for name in others
    )


def has_head(parent: Parent) -> bool:
    """Return whether ``parent`` is an adapter that was saved with a reward model's head."""
    folder = adapter_folder(parent)
    file = None if folder is None else folder / "adapter_model.safetensors"
    if file is None or not file.is_file():
        return False
    with safe_open(file, framework="pt") as tensors:
        return SCORE in set(tensors.keys())


def shares(config: PretrainedConfig) -> bool:
    """Return whether transformers' classifier of this architecture is the language model's backbone with ``score``."""
    with without_storage():
        causal = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    try:
        shell = shell_of(config)
    except ModelError:
        return False
    prefix = f"{shell.base_model_prefix}."
    rest = [name for name, _ in shell.named_parameters() if not name.startswith(prefix)]
    return rest == ["score.weight"] and type(shell.base_model) is type(causal.base_model)
