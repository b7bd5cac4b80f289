"""Our side of benchmarks.dpo: TRL's trainer with shared prefixes, as in stage=dpo with stage.cache_reference=false."""

from preference_work import steps, trainer
from sides import serve

from rlhf.hardware.memory import keep_freed
from rlhf.preference.prefix_sharing import Sharing

BATCHES = 4


def make(spec):
    keep_freed()
    made = trainer(spec, "dpo", BATCHES)
    for model in (made.model, made.ref_model):
        Sharing(model)
    return steps(made, spec, BATCHES)


if __name__ == "__main__":
    serve(make)
