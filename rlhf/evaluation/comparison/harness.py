"""Tasks of lm-eval-harness as columns of a comparison (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness).

The accuracy of a policy on tasks that it was not trained for, beside the reference's, is the cost of its alignment.
"""

import copy
import importlib.util
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf.config import CompareStage
from rlhf.config.compare import Harness
from rlhf.errors import ConfigError
from rlhf.evaluation.responses.answers import Candidate
from rlhf.storage.digests import files_digest, text_digest
from rlhf.storage.json_files import write_json

Scores = dict[str, list[float]]  # "task:metric" -> a number per document


def check(settings: Harness) -> None:
    """Check that the tasks exist, before a model is loaded.

    Raises:
        ConfigError: lm-eval-harness is not installed, or it has no such task.
    """
    if not settings.tasks:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("stage.lm_eval.tasks needs lm-eval-harness: pip install 'rlhf[lm_eval]'")
    if settings.include is not None and not Path(settings.include).is_dir():
        raise ConfigError(f"stage.lm_eval.include={settings.include} is not a folder: name one with task files")
    manager = _manager(settings)
    for task in settings.tasks:
        if not manager.match_tasks([task]):
            raise ConfigError(
                f"stage.lm_eval.tasks={settings.tasks}: lm-eval-harness has no task {task}: "
                "`lm_eval ls tasks` lists them, and stage.lm_eval.include names a folder with others"
            )


def evaluate(candidate: Candidate, weights: str | None, stage: CompareStage, seed: int) -> Scores:
    """Return the number of every document by each metric that is a mean over documents, from the cache if it is there.

    ``weights`` is the digest of the candidate's weights; without one, nothing is cached.
    """
    settings = stage.lm_eval
    asked: dict[str, Any] = {"weights": weights, "seed": seed, "plain": candidate.plain, **_identity(settings)}
    place = Path(settings.cache) / f"{text_digest(json.dumps(asked, sort_keys=True))}.json"
    if weights is not None and place.is_file():
        return json.loads(place.read_text(encoding="utf-8"))["scores"]
    found = _scores(_run(candidate, stage, seed))
    if weights is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, asked | {"scores": found})
    return found


def _identity(settings: Harness) -> dict[str, Any]:
    """Return everything besides the model that determines the scores, with the content of the folder of own tasks."""
    own = None if settings.include is None else Path(settings.include)
    files = None if own is None else files_digest(path for path in own.rglob("*") if path.is_file())
    chosen = {"tasks": list(settings.tasks), "shots": settings.shots, "limit": settings.limit, "chat": settings.chat}
    return chosen | {"files": files, "lm_eval": version("lm_eval")}


def _manager(settings: Harness) -> Any:
    from lm_eval.tasks import TaskManager  # ty: ignore[import-not-found]  # an extra

    return TaskManager(include_path=settings.include)


def _run(candidate: Candidate, stage: CompareStage, seed: int) -> Mapping[str, Any]:
    """Return the results of lm-eval-harness, with those of each document."""
    from lm_eval import simple_evaluate  # ty: ignore[import-not-found]  # an extra
    from lm_eval.models.huggingface import HFLM  # ty: ignore[import-not-found]

    settings = stage.lm_eval
    tokenizer = copy.deepcopy(candidate.tokenizer)  # HFLM changes its padding
    model = HFLM(pretrained=candidate.model, tokenizer=tokenizer, batch_size=stage.batch_size)
    return simple_evaluate(
        model,
        tasks=list(settings.tasks),
        num_fewshot=settings.shots,
        limit=settings.limit,
        apply_chat_template=settings.chat and not candidate.plain,
        task_manager=_manager(settings),
        bootstrap_iters=0,  # the comparison's intervals are over the same documents
        log_samples=True,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )


def _scores(results: Mapping[str, Any]) -> Scores:
    """Return the numbers of each document by task and metric, under the first filter of the task."""
    found: Scores = {}
    for task, samples in results["samples"].items():
        means = [
            key.partition(",")[0] for key in results["results"][task] if not key.partition(",")[0].endswith("_stderr")
        ]
        first = [sample for sample in samples if sample.get("filter") == samples[0].get("filter")]
        for metric in dict.fromkeys(means):
            values = [sample.get(metric) for sample in first]
            if values and all(isinstance(value, int | float) for value in values):
                found[f"{task}:{metric}"] = [float(value) for value in values]
    return found
