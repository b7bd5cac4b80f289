"""TRL's side of benchmarks.reward: its trainer as it is."""

from preference_work import steps, trainer
from sides import serve

BATCHES = 4


def make(spec):
    return steps(trainer(spec, "reward", BATCHES), spec, BATCHES)


if __name__ == "__main__":
    serve(make)
