"""stage=overoptimize: at which KL does the gold reward peak, by size and number of pairs of the reward model?

    python -m rlhf stage=overoptimize
    python -m rlhf stage=overoptimize "stage.pairs=[1000,10000]" "stage.seeds=[1,2,3]"

The runs are in <name>/overoptimize/seed-<n>/<run>, as in stage=ladder, and the same command continues what is missing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlhf.cli.compose import composed
from rlhf.cli.ladder import of_seed, train
from rlhf.config import OveroptimizeStage, Settings
from rlhf.errors import ConfigError, RunError
from rlhf.evaluation.sweeps.ladder import PAGE, place
from rlhf.evaluation.sweeps.overoptimization import BEST_OF_N, CHECK, TRAINED, models, proposed


def run(settings: Settings, directory: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Run what is missing, write the page, run the check that it proposes, and write the page with it.

    Raises:
        ConfigError: there is no gold reward, or a run has a wrong setting.
        RunError: a run failed; the others were run.
    """
    from rlhf.stages import execute

    stage = settings.stage_as(OveroptimizeStage)
    if settings.data.gold is None:
        raise ConfigError("data.gold=null: stage=overoptimize needs a gold reward, such as data.gold=my_module:score")
    shared = {seed: of_seed(settings, directory, overrides, seed) for seed in stage.seeds}
    jobs = {seed: commands(stage, place(directory, seed, ""), own) for seed, own in shared.items()}
    optional = [f"{kind}-{model}" for model in models(stage) for kind in (TRAINED, BEST_OF_N)]
    for own in jobs[stage.seeds[0]].values():  # a mistake is reported before training starts
        composed(own)
    failed = train(settings, directory, jobs, optional)
    page, settings = directory / PAGE, replace(settings, overwrite=False)
    metrics = execute(settings, page, overrides)
    target = metrics.get("kl_target")
    if stage.check is not None and target is not None:
        checks = {seed: {CHECK: check(stage, place(directory, seed, ""), own, target)} for seed, own in shared.items()}
        failed |= train(settings, directory, checks, (CHECK,))
        metrics = execute(settings, page, overrides)
    if failed:
        raise RunError(f"{len(failed)} runs failed: {'; '.join(f'{run}: {why}' for run, why in failed.items())}")
    return metrics


def commands(stage: OveroptimizeStage, chain: Path, shared: Sequence[str]) -> dict[str, list[str]]:
    """Return the overrides of each run of a seed, parents first; ``chain`` is the directory of its runs."""
    before = {name: own for name, own in stage.parents.items() if name != "reward"}
    found = {name: [f"stage={name}", *shared, *own] for name, own in before.items()}
    for size, own in stage.sizes.items():
        start = f"sft-{size}" if own else "sft"
        if own:
            base = [f"model.pretrained={chain}/base-{size}"] if "base" in before else []
            found |= {f"{name}-{size}": [*found[name], *own, *base] for name in before}
        for pairs in stage.pairs:
            data = [*own, f"stage.policy={chain}/{start}", f"data.preferences.limit={pairs}", *stage.parents["reward"]]
            scored = [f"stage.policy={chain}/sft", f"stage.reward={chain}/reward-{size}-{pairs}"]
            drawn = ["stage=sample", "stage.split=validation", "stage.gold=${data.gold}"]
            found |= {
                f"reward-{size}-{pairs}": ["stage=reward", *shared, *data],
                f"{TRAINED}-{size}-{pairs}": [*stage.train, *shared, *scored],
                f"{BEST_OF_N}-{size}-{pairs}": [*drawn, *shared, *scored, *stage.sample],
            }
    return found


def check(stage: OveroptimizeStage, chain: Path, shared: Sequence[str], target: float) -> list[str]:
    """Return the overrides of the run that trains to the proposed KL, against the same reward model."""
    own = commands(stage, chain, shared)[f"{TRAINED}-{proposed(stage)}"]
    return [*own, *stage.check, f"stage.kl_target={target:.3g}"]
