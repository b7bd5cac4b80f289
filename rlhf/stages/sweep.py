"""Write a leaderboard of one or several finished sweeps, with a common frontier. A sweep ends with its own.

    python -m rlhf -m stage=dpo stage.beta=0.05,0.1,0.3 seed=1,2,3
    python -m rlhf stage=sweep                                                 # all sweeps of the name
    python -m rlhf stage=sweep stage.runs=[checkpoints/almanac/dpo,checkpoints/almanac/ppo] objective=gold

Writes leaderboard.md, .csv and .json, and figures/ with reward against KL and the effect of each setting.
"""

from rlhf.config import Settings, SweepStage
from rlhf.evaluation.sweeps import leaderboard
from rlhf.evaluation.sweeps.figures import figures
from rlhf.evaluation.sweeps.jobs import collect
from rlhf.runs.run import Run


def run(settings: Settings, run: Run) -> dict[str, float]:
    """Write and print the leaderboard; return the number of jobs, of unfinished jobs, and the best objective."""
    found = leaderboard.board(collect(settings.stage_as(SweepStage).runs), settings.objective)
    drawn = figures(found)
    (run.work / "figures").mkdir(exist_ok=True)
    for drawing in drawn:
        (run.work / "figures" / f"{drawing.name}.svg").write_text(drawing.standalone(), encoding="utf-8")
    leaderboard.write(found, run.work, [(one.name, one.title, one.caption) for one in drawn])
    run.record_output(run.work / "leaderboard.json")
    leaderboard.show(found, run.directory)
    metrics = {"jobs": float(len(found.jobs)), "unfinished": float(len(found.failed))}
    return metrics if found.best is None else metrics | {"objective": found.rows[0].values[found.objective[0]].mean}
