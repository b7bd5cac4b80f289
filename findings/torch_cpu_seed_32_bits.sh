#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), numpy 2.4.6.
# Behavior: torch.manual_seed and Generator.manual_seed accept seeds of 64 bits and keep them (initial_seed), but the
#   generator of the CPU uses the lower 32 bits only: seeds that differ by a multiple of 2**32 give the same numbers,
#   without a warning. Two runs whose 64-bit seeds share the lower half are one run, and a child seed of the form
#   (number << 32) + seed is the seed itself. numpy's generators use all bits.
# Likely guess: each of the 2**64 accepted seeds has a stream of its own.
# Likely reason: the Mersenne Twister of torch is initialized from 32 bits.
# Seen:
#   torch: initial_seed equal False, numbers equal True
#   child seeds of 7 in torch: 1 stream of 4
#   numpy: numbers equal False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv environment
environment/bin/pip install -q torch==2.13.0 numpy==2.4.6
environment/bin/python - <<'PYTHON' | tee seen
import numpy as np
import torch

one, other = (torch.Generator().manual_seed(seed) for seed in (7, 7 + 2**40))
same = torch.equal(torch.rand(1000, generator=one), torch.rand(1000, generator=other))
print(f"torch: initial_seed equal {one.initial_seed() == other.initial_seed()}, numbers equal {same}")
children = {tuple(torch.rand(4, generator=torch.Generator().manual_seed((n << 32) + 7)).tolist()) for n in range(4)}
print(f"child seeds of 7 in torch: {len(children)} stream of 4")
numbers = [np.random.default_rng(seed).random(1000) for seed in (7, 7 + 2**40)]
print(f"numpy: numbers equal {np.array_equal(*numbers)}")
PYTHON
diff - seen <<'SEEN'
torch: initial_seed equal False, numbers equal True
child seeds of 7 in torch: 1 stream of 4
numpy: numbers equal False
SEEN
