"""One frozen language model in several roles: each role is a sum of adapters, and perhaps a head of its own.

    y = W x + Σᵢ (αᵢ / rᵢ) Bᵢ Aᵢ x        i over the adapters that the role wears

Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3, with more than one of them. W is there once and never trained;
of a role's adapters at most the last is. peft holds the adapters, and they are switched around each forward pass.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
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
from rlhf.modeling.foreign import can_score
from rlhf.modeling.fused_lora import fuse
from rlhf.modeling.loading import adapter_folder
from rlhf.ppo.critic import Critic
from rlhf.runs.parents import Parent

POLICY = "default"  # the adapter that peft saves at the top of a folder
SCORE = "base_model.model.score.weight"  # a reward model's head, in the file of its adapter
# In what the configurations of adapters that add up may differ; the rest is how they came to be, or another formula.
SIZES = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "init_lora_weights",
)  # fmt: skip


class SharedBase:
    """A frozen base that can wear the adapters of every role; ``model`` comes with one, the policy's.

    Which adapters are worn changes without their ``requires_grad``. peft's own switches turn it off in what is not
    worn, and autograd drops a gradient without a word that reaches a parameter then, after another role's turn.
    """

    def __init__(self, model: PeftModel):
        self.model = model
        self.worn: tuple[str, ...] = (POLICY,)
        self.trained: list[nn.Parameter] = []
        self._settle()

    @property
    def causal(self) -> PreTrainedModel:
        return self.model.get_base_model()

    def add(self, name: str, config: LoraConfig) -> None:
        """A new adapter, drawn from torch's generator; until it is trained it changes nothing."""
        self.model.add_adapter(name, config)
        self._settle()

    def load(self, name: str, folder: Path) -> Tensor | None:
        """Put the adapter in ``folder`` beside the others; returns the head (1, h) that was saved with it, if any.

        Raises:
            ModelError: it is no sum of low-rank matrices, or not one on this base.
        """
        config = stored(folder)
        self.model.add_adapter(name, config, low_cpu_mem_usage=True)
        weights = {key: value.float() for key, value in load_peft_weights(str(folder), device="cpu").items()}
        head = weights.pop(SCORE, None)
        loaded = set_peft_model_state_dict(self.model, weights, adapter_name=name, low_cpu_mem_usage=True)
        wrong = [*loaded.unexpected_keys, *(key for key, value in self.parameters(name).items() if value.is_meta)]
        if wrong:
            raise ModelError(f"{folder} is no adapter on this base: {wrong[0]} is in one of them alone")
        self._settle()
        return head

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Those of the adapter ``name``, as they are called in ``model``."""
        found = self.model.named_parameters()
        return {key: value for key, value in found if "lora_" in key and name in key.split(".")[-2:]}

    def language_model(self, wears: Sequence[str], *, train: bool = False) -> "Role":
        """Predicts tokens. With ``train`` the last of its adapters is learned."""
        return Role(self, self.model, wears, self.parameters(wears[-1]) if train else {})

    def classifier(self, wears: Sequence[str], head: Tensor) -> "Role":
        """Scores whole texts, frozen: transformers' own classifier around the base, with a copy of ``head``."""
        return Role(self, classifier(self.causal, head), wears, {})

    def critic(self, wears: Sequence[str], head: Tensor) -> "Role":
        """Gives the values of tokens; the last of its adapters and its copy of ``head`` are learned."""
        view = classifier(self.causal, head)
        return Role(self, Critic(view), wears, self.parameters(wears[-1]) | {"score.weight": view.score.weight})

    @contextmanager
    def wearing(self, names: tuple[str, ...]) -> Iterator[None]:
        """The base under the sum of these adapters; those of before come back."""
        before = self.worn
        self._wear(names)
        try:
            yield
        finally:
            self._wear(before)

    def _wear(self, names: tuple[str, ...]) -> None:
        self.worn = names
        for layer in self._layers:
            # peft's set_adapter would do this, set every requires_grad besides, and take some 10 ms for 30 layers.
            layer._active_adapter = list(names)

    def _settle(self) -> None:
        """After peft has put an adapter in: every layer wears what it should, dropout is off, the base is frozen."""
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
    """A model over a shared base that wears these adapters whenever it is called.

    Its parameters are what it trains and nothing else, so that an optimizer, a checkpoint or a distributed wrapper
    made from it knows nothing of other roles. Anything else is asked of ``view``, the model that it is.
    """

    def __init__(self, shared: SharedBase, view: nn.Module, wears: Sequence[str], own: Mapping[str, nn.Parameter]):
        super().__init__()
        # Not as children: theirs are the parameters of all roles.
        self.__dict__.update(shared=shared, view=view)
        self.wears = tuple(wears)
        self.own = nn.ParameterDict()
        for name, value in own.items():  # one by one: of a dict, it would sort them
            self.own[name.replace(".", "/")] = value
        shared.trained += self.own.values()
        view.requires_grad_(False).eval()
        shared._thaw()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.shared.wearing(self.wears):
            return self.view(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        with self.shared.wearing(self.wears):
            return self.view.generate(*args, **kwargs)

    def train(self, mode: bool = True) -> "Role":
        """The role's own mode alone: the base is every role's, and has dropout off."""
        self.training = mode
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Role":
        """``to(device)``: moves the base under every role, the head of this one, and what is there already stays."""
        self.shared.model._apply(fn)
        self.view._apply(fn)
        return super()._apply(fn, recurse)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(self.__dict__["view"], name)
        if isinstance(found, nn.Module):
            raise AttributeError(f"{name}, called by itself, would wear what another role left: call the role")
        return found


class Head(nn.Linear):
    """Scores (..., 1) of hidden states (..., h), in the precision of its weights, float32."""

    def __init__(self, weight: Tensor):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight.detach().float().clone())

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.to(self.weight.dtype))


def classifier(causal: PreTrainedModel, head: Tensor) -> PreTrainedModel:
    """A sequence classifier of one output that has the backbone of ``causal``, and not a copy of it."""
    shell = shell_of(causal.config)
    shell.score = Head(head).to(causal.device)
    setattr(shell, shell.base_model_prefix, causal.base_model)
    return shell.eval()


def shell_of(config: PretrainedConfig) -> PreTrainedModel:
    """A classifier of one output without weights.

    Raises:
        ModelError: there is no classifier of this architecture.
    """
    can_score(config)
    config = copy.deepcopy(config)
    config.num_labels = 1
    with init_empty_weights():
        return AutoModelForSequenceClassification.from_config(config)


def stored(folder: Path) -> LoraConfig:
    """The configuration of the adapter in ``folder``, for any role; a head that is saved with it is no part of it."""
    config = PeftConfig.from_pretrained(folder)
    config.task_type = config.modules_to_save = None
    config.inference_mode = True
    return config


def adds_up(parent: Parent) -> bool:
    """Whether ``parent``, an adapter, is a sum of low-rank matrices beside a head, and can be worn with others."""
    config, usual = PeftConfig.from_pretrained(adapter_folder(parent)), LoraConfig()
    if not isinstance(config, LoraConfig) or config.init_lora_weights not in (True, False, "gaussian"):
        return False
    others = [field.name for field in fields(LoraConfig) if field.name not in SIZES]
    heads = {"score", "classifier"}  # peft names both, of a classifier of either name
    return set(config.modules_to_save or ()) <= heads and all(
        getattr(config, name) == getattr(usual, name) for name in others
    )


def has_head(parent: Parent) -> bool:
    """Whether ``parent`` is an adapter that was saved with a reward model's head."""
    folder = adapter_folder(parent)
    file = None if folder is None else folder / "adapter_model.safetensors"
    if file is None or not file.is_file():
        return False
    with safe_open(file, framework="pt") as tensors:
        return SCORE in set(tensors.keys())


def shares(config: PretrainedConfig) -> bool:
    """Whether transformers' classifier of this architecture is its language model's backbone under a head ``score``."""
    with init_empty_weights():
        causal = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    try:
        shell = shell_of(config)
    except ModelError:
        return False
    prefix = f"{shell.base_model_prefix}."
    rest = [name for name, _ in shell.named_parameters() if not name.startswith(prefix)]
    return rest == ["score.weight"] and type(shell.base_model) is type(causal.base_model)
