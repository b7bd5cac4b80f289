"""Rejection sampling: fine-tune on the best of K responses per prompt from the parent (RAFT), and train a control.

    python -m rlhf stage=raft                     # samples from checkpoints/<name>/sft, scores by .../reward
    python -m rlhf stage=raft stage.samples=16 stage.control=false
    python -m rlhf -m stage=raft stage.samples=2,4,8,16

The control is trained on a random response to each of the same prompts: the difference between the two policies is the
effect of the selection. Dong et al. 2023, https://arxiv.org/abs/2304.06767.
"""

from typing import Any

from rlhf.config import Format, RAFTStage, SampleStage, Settings, SFTStage, part_of
from rlhf.console import console
from rlhf.data.sources import own_file, source_of
from rlhf.evaluation.responses.policies import Policies, with_bounds
from rlhf.labeling.pairs import BEST, RANDOM
from rlhf.runs.parents import Parent
from rlhf.runs.run import Run
from rlhf.stages import adopt, inner

POLICY, CONTROL = "policy", "control"


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Sample, train the policy and its control, measure both, save the policy and return its metrics."""
    stage = settings.stage_as(RAFTStage)
    policies = Policies(settings, run)
    sampled = inner(run, settings, "sample", part_of(stage, SampleStage, name="sample", split="train", stream=0))
    trained: dict[str, Parent] = {}
    for title, name in {POLICY: BEST, CONTROL: RANDOM}.items():
        if title == POLICY or stage.control:
            rows = own_file(sampled.directory / name, Format.standard)
            others = {"path": None, "prompts": source_of(settings.data, "prompts"), "demonstrations": rows}
            trained[title] = inner(run, settings, title, part_of(stage, SFTStage, name="sft"), **others)
    drawn: Any = sampled.manifest
    metrics = {f"sample/{key}": value for key, value in drawn["metrics"].items() if key != "objective"}
    final: Any = trained[POLICY].manifest
    metrics |= {key: final["metrics"][key] for key in ("eval/loss", "steps", "tokens")}
    if policies.prompts:
        metrics |= compared(run, policies, trained)
    adopt(run, settings, trained[POLICY])
    return metrics


def compared(run: Run, policies: Policies, trained: dict[str, Parent]) -> dict[str, float]:
    """Return the means of the policy, and its differences to its parent and to the control with their intervals."""
    ours = policies.measured(POLICY, trained[POLICY])
    found = ours.means()
    others = {"start": run["policy"], **trained}
    del others[POLICY]
    for title, other in others.items():
        theirs = policies.measured(title, other)
        found |= {f"{title}/{name}": value for name, value in theirs.means().items()}
        rate = policies.win_rate(ours, theirs)
        found |= with_bounds("win_rate" if title == "start" else f"win_rate/{title}", rate)
        for name in ours.scores:
            difference = policies.difference(name, ours, theirs)
            found |= with_bounds(f"difference/{title}/{name}", difference)
            sentence = (
                f"raft: {name} {found[name]:.3f}, {title} {found[f'{title}/{name}']:.3f}, difference {difference}"
            )
            console.print(f"{sentence}, win rate {rate}", highlight=False, markup=False, soft_wrap=True)
    return found | {"objective": found["win_rate"]}
