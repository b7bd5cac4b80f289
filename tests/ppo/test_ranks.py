"""Two processes that share a batch take the step that one process takes with all of it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from rlhf.ppo.ranks import whiten

STEP = """
import os
import sys
import torch
from safetensors.torch import save_file
from rlhf.models import chat_template
from rlhf.ppo import Critic, PPOTrainer, settings
from rlhf.ppo.ranks import whiten
from rlhf.ppo.rollout import evaluate, pack
from rlhf.scratch import new_tokenizer
from tests.ppo.conftest import TINY, WORDS, length_reward, new_policy, new_reward_model

tokenizer = new_tokenizer([" ".join(WORDS)] * 4, 280, chat_template("almanac"))
policy, reference, critic = new_policy(tokenizer), new_policy(tokenizer), Critic(new_reward_model(tokenizer))
stage = settings(**TINY | {"minibatches": 1, "epochs": 1, "micro_batch_size": 1, "max_grad_norm": 1e9})
trainer = PPOTrainer(policy, reference, critic, tokenizer, length_reward, ["red"], stage, seed=0)
rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
assert ranks == int(sys.argv[2])
for name, model in (("policy", policy), ("critic", critic)):
    trainer.learner.optimizers[name] = torch.optim.SGD(model.parameters(), lr=0.1)
lengths = (5, 1, 2, 1, 4, 1)  # rank 0 gets the long rows, rank 1 the short ones
responses = [list(range(40 + row, 40 + row + length)) for row, length in enumerate(lengths)]
mine = range(rank, 6, ranks)
prompts, zeros = [[30, 31 + row] for row in mine], [0.0] * len(mine)
rollout = pack(prompts, [responses[row] for row in mine], zeros, {1}, 0, policy.device)
rollout = evaluate(rollout, policy, reference, critic, 0.7, 6)
advantages = torch.where(rollout.mask, rollout.response_ids.float() ** 2, 0.0)
returns = torch.where(rollout.mask, rollout.response_ids.float() / 40, 0.0)
trainer.learner.improve(rollout, whiten(advantages, rollout.mask, trainer.accelerator), returns, 0)
if rank == 0:
    save_file(policy.state_dict() | critic.state_dict(), sys.argv[1])
trainer.accelerator.wait_for_everyone()
os._exit(0)  # an orderly exit aborts now and then: gloo's threads still hold tensors (pytorch pull request 179291)
"""


def step(ranks: int, file: Path) -> dict[str, torch.Tensor]:
    """Weights after one step by ``ranks`` processes."""
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
        for process in processes:  # one whose peer has failed waits for it in vain
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * ranks, errors
    return load_file(file)


def test_two_ranks_take_the_step_of_one(tmp_path: Path) -> None:
    """Their rows have 11 and 3 tokens and their own widths: a mean of the ranks' means would be another gradient."""
    alone, shared = step(1, tmp_path / "one.safetensors"), step(2, tmp_path / "two.safetensors")
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        assert torch.allclose(value, shared[name], atol=1e-6, rtol=0), name


def test_whitened_advantages_have_mean_zero_over_the_tokens() -> None:
    """Advantages 1, 2, 6: mean 3, variance 7."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whiten(torch.tensor([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]), mask, Accelerator(cpu=True))
    assert found.flatten().tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 0, 3 / 7**0.5, 0, 0], abs=1e-6)
