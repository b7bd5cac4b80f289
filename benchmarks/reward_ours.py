"""Our side of benchmarks.reward: TRL's trainer with shared prefixes, as in stage=reward."""

from preference_work import steps, trainer
from sides import serve

from rlhf.hardware.memory import keep_freed
from rlhf.preference.prefix_sharing import Sharing

BATCHES = 4


def make(spec):
    keep_freed()
    made = trainer(spec, "reward", BATCHES)
    Sharing(made.model)
    return steps(made, spec, BATCHES)


if __name__ == "__main__":
    serve(make)
