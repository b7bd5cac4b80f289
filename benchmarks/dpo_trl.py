"""TRL's side of benchmarks.dpo: its unchanged trainer."""

from preference_work import steps, trainer
from sides import serve

BATCHES = 4


def make(spec):
    return steps(trainer(spec, "dpo", BATCHES), spec, BATCHES)


if __name__ == "__main__":
    serve(make)
