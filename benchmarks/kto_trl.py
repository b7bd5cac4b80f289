"""TRL's side of benchmarks.kto: its unchanged trainer."""

from preference_work import steps, trainer
from sides import serve

BATCHES = 4


def make(spec):
    return steps(trainer(spec, "kto", BATCHES), spec, BATCHES)


if __name__ == "__main__":
    serve(make)
