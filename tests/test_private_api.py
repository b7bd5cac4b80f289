"""Private names of other packages that rlhf/ uses: the one list of them, and what breaks without each.

A minor release may rename any of these. The tests fail if a name is used that is not listed, or listed and gone.
"""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from rlhf.storage.paths import PACKAGE

# name -> (the module whose source defines it, what breaks in rlhf without it)
PRIVATE = {
    "_metrics": ("trl.trainer.dpo_trainer", "logged means of resumed, split and evaluated steps of TRL's trainers"),
    "_total_train_tokens": ("trl.trainer.sft_trainer", "the token count of SFT after a step is tried again"),
    "_precompute_model_hash": ("trl.trainer.dpo_trainer", "the key of the cached reference log-probabilities"),
    "_precompute_ref_logps": ("trl.trainer.dpo_trainer", "the cached reference: our override is never called"),
    "_prepare_dataset": ("trl.trainer.dpo_trainer", "rows that are tokenized already: TRL would do it again"),
    "_set_signature_columns_if_needed": ("trl.trainer.dpo_trainer", "columns of weights and cached references"),
    "_compute_loss": ("trl.trainer.dpo_trainer", "losses without a reference, and KTO's accuracy"),
    "_compute_kl_logps": ("trl.trainer.kto_trainer", "the reference point of all held-out rows"),
    "_prepare_inputs": ("transformers.trainer", "the reference point of all held-out rows on a GPU"),
    "_tr_loss": ("transformers.trainer", "bit-exact logs of a resumed run"),
    "_globalstep_last_logged": ("transformers.trainer", "bit-exact logs of a resumed run"),
    "_load_from_checkpoint": ("transformers.trainer", "resuming a run whose training was complete"),
    "_attn_implementation": ("transformers.configuration_utils", "segment attention of prefix sharing"),
    "_model_mapping": ("transformers.models.auto.auto_factory", "the check that an architecture has a classifier"),
    "_active_adapter": ("peft.tuners.tuners_utils", "switching roles on one shared base"),
    "_fingerprint": ("datasets.arrow_dataset", "cache keys of tokenized data"),
    "_reset_state": ("accelerate.state", "stages in one process with different devices or precision"),
    "_get_node": ("omegaconf.basecontainer", "the search for settings of a similar name"),
    "_get_parent": ("omegaconf.base", "the search for settings of a similar name"),
    "_is_missing": ("omegaconf.base", "the search for settings of a similar name"),
    "_is_none": ("omegaconf.base", "the search for settings of a similar name"),
    "_utils": ("omegaconf.omegaconf", "YAML parsed in C: get_yaml_loader of this module has OmegaConf's loader"),
    "Hydra": ("hydra._internal.hydra", "a start-up that composes the settings once: get_mode composes them, too"),
    "get_args_parser": ("hydra._internal.utils", "options of Hydra told from settings before Hydra parses them"),
}
# Public although they begin with an underscore: namedtuple, os, Hydra's instantiate.
PUBLIC = {"_asdict", "_replace", "_exit", "_target_"}
OVERRIDDEN = (
    "_precompute_ref_logps", "_prepare_dataset", "_set_signature_columns_if_needed", "_compute_loss",
    "_compute_kl_logps",
)  # fmt: skip


def own_names(trees: list[ast.AST]) -> set[str]:
    """Return the private names that rlhf/ defines itself."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


def used() -> dict[str, str]:
    """Map each private name of another package to a place in rlhf/ that uses it."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    own = own_names(list(trees.values())) - {
        *OVERRIDDEN,
        "_metrics",
        "_precompute_model_hash",
    }  # also names or annotations in this package
    found = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.FunctionDef) and node.name in OVERRIDDEN:
                names = [node.name]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("rlhf"):
                inside = "._" in f".{node.module}"
                names = [alias.name for alias in node.names if inside or alias.name.startswith("_")]
                found |= {name: f"{path.relative_to(PACKAGE)}:{node.lineno}" for name in names}
                continue
            for name in names:
                if name.startswith("_") and not name.startswith("__") and name not in own | PUBLIC:
                    found[name] = f"{path.relative_to(PACKAGE)}:{node.lineno}"
    return found


def test_every_private_name_that_is_used_is_listed_and_no_other() -> None:
    assert set(used()) == set(PRIVATE), used()


@pytest.mark.parametrize("name", PRIVATE)
def test_the_library_still_has_the_name(name: str) -> None:
    module, breaks = PRIVATE[name]
    source = Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8")
    assert name in source, f"{module} has no {name}: {breaks}"
