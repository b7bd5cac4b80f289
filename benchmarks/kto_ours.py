"""Our side of benchmarks.kto: TRL's trainer with shared prefixes, as in stage=kto with stage.cache_reference=false."""

from typing import Any

from preference_work import steps, trainer
from sides import serve

from rlhf.hardware.memory import keep_freed
from rlhf.preference.kto import FIELDS, log_probs_of_both
from rlhf.preference.prefix_sharing import Sharing

BATCHES = 4


def make(spec):
    keep_freed()
    made = trainer(spec, "kto", BATCHES)
    Sharing(made.model, FIELDS)
    Sharing(made.ref_model, ("log_probs",))
    plain, made.precompute_ref_logps = made._compute_loss, True

    def compute_loss(model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        found = log_probs_of_both(made, made.compute_ref_log_probs, made.ref_model, inputs)
        return plain(model, inputs | dict(zip(("ref_logps", "ref_KL_logps"), found, strict=True)), return_outputs)

    made._compute_loss = compute_loss
    return steps(made, spec, BATCHES)


if __name__ == "__main__":
    serve(make)
