"""Our side of benchmarks.kto: TRL's trainer with shared prefixes, as in stage=kto with stage.cache_reference=false."""

from preference_work import steps, trainer
from sides import serve

from rlhf.hardware.memory import keep_freed
from rlhf.preference.kto import FIELDS
from rlhf.preference.prefix_sharing import Sharing

BATCHES = 4


def make(spec):
    keep_freed()
    made = trainer(spec, "kto", BATCHES)
    Sharing(made.model, FIELDS)
    Sharing(made.ref_model, ("log_probs",))
    return steps(made, spec, BATCHES)


if __name__ == "__main__":
    serve(make)
