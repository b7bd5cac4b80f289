"""Two processes that share a batch take the same step as one process with the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from rlhf.ppo.distributed import whiten
from rlhf.ppo.kl import adapted
from tests.ppo.conftest import OF_REWARD

STEP = """
import os
import sys
import torch
from safetensors.torch import save_file
from rlhf.data.templates import chat_template
from rlhf.ppo import Critic, PPOTrainer, ValueHead, settings
from rlhf.ppo.distributed import agreed, anywhere, moments, whiten
from rlhf.ppo.rollout import evaluate, pack
from rlhf.rewards import CompositeReward, RunningNormalizer, RewardTerm
from rlhf.modeling.from_scratch import new_tokenizer
from tests.ppo.conftest import OF_REWARD, PROMPTS, TINY, WORDS, length_reward, new_policy, new_reward_model

tokenizer = new_tokenizer([" ".join(WORDS)] * 4, 280, chat_template("almanac"))
found = {}

def new_trainer(reference_seed=0, critic=None, text=None, **options):
    critic = Critic(new_reward_model(tokenizer)) if critic is None else critic
    models = new_policy(tokenizer), new_policy(tokenizer, reference_seed), critic
    stage = settings(**TINY | {"minibatches": 1, "epochs": 1, "micro_batch_size": 1, "max_grad_norm": 1e9} | options)
    return PPOTrainer(*models, tokenizer, length_reward, PROMPTS, stage, seed=0, text=text)

def step(name, critic=None, **options):
    trainer = new_trainer(5, critic, **options)
    rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
    assert ranks == int(sys.argv[2])
    for role, model in trainer.learner.modules.items():
        trainer.learner.optimizers[role] = torch.optim.SGD(model.parameters(), lr=0.1)
    lengths = (5, 1, 2, 1, 4, 1)  # rank 0 gets the long rows, rank 1 the short ones
    responses = [list(range(40 + row, 40 + row + length)) for row, length in enumerate(lengths)]
    mine = range(rank, 6, ranks)
    prompts, zeros = [[30, 31 + row] for row in mine], [0.0] * len(mine)
    rollout = pack(prompts, [responses[row] for row in mine], zeros, {1}, 0, trainer.policy.device)
    rollout = evaluate(rollout, trainer.policy, trainer.reference, trainer.critic, 0.7, 6)
    rollout = rollout._replace(sampler_logprobs=rollout.logprobs + torch.sin(rollout.response_ids.float()))
    advantages = torch.where(rollout.mask, rollout.response_ids.float() ** 2, 0.0)
    returns = torch.where(rollout.mask, rollout.response_ids.float() / 40, 0.0)
    white = whiten(advantages, rollout.mask, trainer.accelerator)
    metrics = trainer.learner.improve(rollout, white, returns, 0, 0.1 if options else 0.0)
    mean, variance = moments(returns, rollout.mask, trainer.accelerator)
    state = {"policy": trainer.policy.state_dict(), "critic": trainer.critic.state_dict()}
    found.update({f"{name}/{role}/{key}": value for role in state for key, value in state[role].items()})
    found.update({f"{name}/{key}": torch.tensor(value) for key, value in metrics.items()})
    found.update({f"{name}/mean": mean, f"{name}/variance": variance})
    return trainer

step("defaults")
trunk = ValueHead(16)
torch.nn.init.constant_(trunk.score.weight, 0.1)
step("trunk", trunk, value_coef=0.5)
rows = [[40 + row, 50, 60 + row, 7] for row in range(5)]  # each rank reads half of those of the step
step("text", text=rows, ptx_coef=2.0, ptx_batch_size=4, ptx_block_length=4)
trainer = step(
    "options", loss_mean="response", kl_in="loss", kl_estimator="k2", entropy_coef=0.1, importance_cap=1.5,
    clip_high=0.28, dual_clip=3.0, value_clip=None,
)
# Each rank scores different texts; normalization and logging use the statistics of all ranks.
scorer = trainer.reward
scorer.reward = CompositeReward({"long": RewardTerm(length_reward, 1.0, RunningNormalizer())})
for update in range(2):
    texts = ["a" * (length + update) for length in (1, 5, 2, 8, 3, 4)]
    scorer([""] * 6, texts[trainer.accelerator.process_index :: trainer.accelerator.num_processes])
    scored = scorer.metrics() | scorer.state_dict()["long"]
    found.update({f"rewards/{update}/{key}": torch.tensor(value) for key, value in scored.items()})
# Each rank samples different texts, but all must stop at the same step and have the same coefficient.
trainer = new_trainer(kl_target=0.1, target_kl=0.01, epochs=4, minibatches=3, micro_batch_size=2, updates=3)
logged = []
trainer.log = lambda metrics, update: logged.append([metrics["policy/steps"], metrics["objective/kl"], trainer.kl_coef])
trainer.train()
everyone = trainer.accelerator.gather(torch.tensor(logged)[None])
found["adaptive"] = everyone
# Groups of three responses: the same responses, advantages and step, also if equal groups are left out.
special = {"dr_grpo": {"equal_groups": "drop"}, "reinforce_pp_baseline": {"missing_eos": "mask"}}
for name in OF_REWARD:
    one = {"samples": 3, "minibatches": 1, "epochs": 1, "missing_eos": "keep", "updates": 1}
    stage = settings(**TINY | one | {"advantage": name} | special.get(name, {}))
    score = lambda prompts, texts: [len(text) / 10 if "red" in prompt else 1.0 for prompt, text in zip(prompts, texts)]
    critic = Critic(new_reward_model(tokenizer)) if stage.has_critic else None
    models = new_policy(tokenizer), new_policy(tokenizer), critic
    trainer = PPOTrainer(*models, tokenizer, score, PROMPTS, stage, seed=0)
    for role, model in trainer.learner.modules.items():
        trainer.learner.optimizers[role] = torch.optim.SGD(model.parameters(), lr=0.1)
    metrics = trainer.train()
    for role, model in trainer.learner.modules.items():
        found.update({f"{name}/{role}/{key}": value for key, value in model.state_dict().items()})
    found.update({f"{name}/{key}": torch.tensor(value) for key, value in metrics.items()})
if trainer.accelerator.process_index == 0:
    save_file({key: value.contiguous() for key, value in found.items()}, sys.argv[1])
# Ranks with different numbers all use the first rank's, and an error on one rank is detected on all.
rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
seen = agreed({"a": 0.1 + rank, "b": 1e300}, trainer.accelerator)
assert seen == {"a": 0.1, "b": 1e300}, seen
for guilty in range(ranks):
    assert anywhere(rank == guilty, trainer.accelerator)
assert not anywhere(False, trainer.accelerator)
trainer.accelerator.wait_for_everyone()
os._exit(0)  # an orderly exit aborts now and then: gloo's threads still hold tensors (pytorch pull request 179291)
"""


def step(ranks: int, file: Path) -> dict[str, torch.Tensor]:
    """Return the weights after one step by ``ranks`` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(ranks):
        environment = os.environ | (together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})
        command = [sys.executable, "-c", STEP, str(file), str(ranks)]
        processes.append(
            subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
        )
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:  # a process whose peer has failed would wait forever
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * ranks, errors
    return load_file(file)


@pytest.fixture(scope="module")
def alone_and_shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the results of one process, and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    return step(1, folder / "one.safetensors"), step(2, folder / "two.safetensors")


@pytest.mark.parametrize("options", ["defaults", "options", "trunk", "text", *OF_REWARD])
def test_two_ranks_take_the_step_of_one(
    alone_and_shared: tuple[dict[str, Tensor], dict[str, Tensor]], options: str
) -> None:
    """Their rows have 11 and 3 tokens and different widths: a mean of the ranks' means would be another gradient.

    Every metric of the update also equals that of one process.
    """
    alone, shared = alone_and_shared
    names = [name for name in alone if name.startswith(f"{options}/")]
    assert alone.keys() == shared.keys()
    assert len(names) > 20
    for name in names:
        assert torch.allclose(alone[name], shared[name], atol=1e-6, rtol=1e-5), name


def test_scores_are_normalized_and_logged_over_all_ranks(
    alone_and_shared: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    alone, shared = alone_and_shared
    names = [name for name in alone if name.startswith("rewards/")]
    assert {name.rpartition("/")[2] for name in names} == {"long", "long_std", "count", "mean", "squares"}
    for name in names:
        assert shared[name].item() == pytest.approx(alone[name].item(), rel=1e-6), name
    assert shared["rewards/1/count"] == 12
    assert shared["rewards/1/mean"].item() == pytest.approx(
        (23 / 6 + 0.5) / 10
    )  # length_reward is a tenth of the length


def test_ranks_agree_on_the_adaptive_coefficient_and_on_where_an_update_ends(
    alone_and_shared: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    """Both depend on the measurements of all ranks; the coefficient follows from one logged KL to the next."""
    one, other = alone_and_shared[1]["adaptive"]
    assert torch.equal(one, other)
    steps, kls, coefficients = one.T.tolist()
    assert min(steps) < 12
    coefficient = 0.05
    for kl, following in zip(kls, coefficients, strict=True):
        coefficient = adapted(coefficient, kl, 0.1, 0.1)
        assert following == pytest.approx(coefficient, rel=1e-5)
    assert coefficient != pytest.approx(0.05, rel=1e-3)


def test_whitened_advantages_have_mean_zero_over_the_tokens() -> None:
    """Advantages 1, 2, 6: mean 3, variance 7."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whiten(torch.tensor([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]), mask, Accelerator(cpu=True))
    assert found.flatten().tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 0, 3 / 7**0.5, 0, 0], abs=1e-6)


def test_whitened_rewards_keep_their_mean() -> None:
    """Rewards 1, 2, 6: mean 3, variance 7; rewards off the mask are 0."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whiten(torch.tensor([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]), mask, Accelerator(cpu=True), keep_mean=True)
    assert found.flatten().tolist() == pytest.approx(
        [3 - 2 / 7**0.5, 3 - 1 / 7**0.5, 0, 3 + 3 / 7**0.5, 0, 0], abs=1e-6
    )
