import json
from collections.abc import Callable
from pathlib import Path

from rlhf.config import Settings
from rlhf.runs.run import Run


def test_lines_past_the_checkpoint_are_dropped_on_resume(settings: Callable[..., Settings], tmp_path: Path) -> None:
    run = Run.start(tmp_path / "base", settings("base"))
    for step in (1, 2, 3):
        run.log({"n": float(step)}, step)
    with (run.work / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "torn')
    run.rewind(2)
    run.log({"n": 9.0}, 3)
    steps = [json.loads(line)["step"] for line in (run.work / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    run.finish({})


def test_what_was_written_at_a_checkpoint_is_what_is_left_of_the_logs(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """The last step is logged twice: by training before the checkpoint, and by the evaluation after training."""
    run = Run.start(tmp_path / "base", settings("base"))
    run.log({"train/loss": 1.0}, 4)
    written = run.written()
    run.log({"eval/loss": 2.0}, 4)
    (run.work / "samples.jsonl").write_text('{"step": 4}\n')
    run.rewind(4)
    assert run.written() == {"metrics.jsonl": 2, "samples.jsonl": 1}
    run.rewind(4, written)
    assert (run.work / "metrics.jsonl").read_text() == '{"step": 4, "train/loss": 1.0}\n'
    assert (run.work / "samples.jsonl").read_text() == ""
    run.log({"eval/loss": 3.0}, 4)
    assert run.written() == {"metrics.jsonl": 2, "samples.jsonl": 0}
    run.finish({})
