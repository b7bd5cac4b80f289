"""Time until the comparison's page can be used, with 10,000 responses, in Chromium.

    python -m benchmarks.report_page

Writes a page of four stages whose responses are those of the embedded pairs, chosen at random, and opens it several
times in a headless browser from a file. Measured are the first contentful paint; the end of the load event, after which
the page's script has run and every control works; and the time from a change of a filter until the examples are laid
out again. Needs Chromium with its driver and selenium. Writes benchmarks/report_page.json.
"""

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from benchmarks import sides
from rlhf.almanac import gold
from rlhf.cli.compose import register, settings_of
from rlhf.config import CompareStage
from rlhf.data.render import question
from rlhf.evaluation.comparison.comparison import Comparison, measure, score
from rlhf.evaluation.reporting import report
from rlhf.evaluation.responses.answers import Answers, by_prompt
from rlhf.storage.paths import bundled
from tests.browser import BINARY, DRIVER, chromium

RESULT = Path(__file__).with_suffix(".json")
PAIRS = Path(__file__).parent.parent / "preference_data" / "almanac" / "preferences" / "train.jsonl"
CHOSEN = {"base": 0.2, "sft": 0.6, "dpo": 0.8, "ppo": 0.7}  # share of chosen responses of each stage
SEED = 0
OPENED = """
const [entry] = performance.getEntriesByType("navigation");
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return [paint ? paint.startTime : null, entry.loadEventEnd, document.querySelectorAll("#rows .row").length];
"""
CHANGED = """
const [name, value, kind] = arguments, field = document.getElementById("filters").elements[name];
const started = performance.now();
field.value = value;
field.dispatchEvent(new Event(kind, { bubbles: true }));
document.body.offsetHeight;
return performance.now() - started;
"""
FILTERS = {"lost": ("result", "lost", "change"), "search": ("search", "the", "input")}


def comparison(prompts: int, samples: int) -> Comparison:
    """Return a comparison of four stages with ``prompts`` · ``samples`` responses of each."""
    register()
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        composed = compose("config", ["stage=compare", f"stage.samples={samples}", "stage.questions=[]"])
        stage = settings_of(composed).stage_as(CompareStage)
    lines = PAIRS.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in random.Random(SEED).sample(lines, prompts)]
    answers = {name: answered(name, rows, samples) for name in CHOSEN}
    score(answers.values(), "gold", gold, [row["prompt"] for row in rows])
    previous = dict(zip(CHOSEN, (None, "base", "sft", "sft"), strict=True))
    metrics = {
        name: measure(found, rows, answers["sft"], stage, SEED, None, answers.get(str(previous[name])))
        for name, found in answers.items()
    }
    return Comparison(stage, rows, answers, metrics, [], SEED, previous)


def answered(name: str, rows: list[dict[str, Any]], samples: int) -> Answers:
    """Return responses of a stage: of each pair, the chosen one with the probability in `CHOSEN`, else the other."""
    stream = random.Random(f"{SEED} {name}")
    sides_of = [("chosen", "rejected")[stream.random() > CHOSEN[name]] for _ in rows for _ in range(samples)]
    repeated = [row for row in rows for _ in range(samples)]
    texts = [question(row[side]) for row, side in zip(repeated, sides_of, strict=True)]
    kl = None if name in ("base", "sft") else [[stream.expovariate(1) for _ in range(samples)] for _ in rows]
    lengths = by_prompt([len(text.split()) for text in texts], samples)
    ended = [[True] * samples for _ in rows]
    return Answers(name, name == "base", by_prompt(texts, samples), lengths, ended, [], kl=kl)


def measured(page: Path, rounds: int, profile: Path) -> dict[str, Any]:
    """Open ``page`` several times after a first one that is not counted; return medians and ranges in milliseconds."""
    found: dict[str, list[float]] = {name: [] for name in ("first_paint", "interactive", *FILTERS)}
    with chromium(profile) as browser:
        for number in range(rounds + 1):
            browser.get(page.as_uri())
            paint, loaded, shown = browser.execute_script(OPENED)
            assert shown, "the page shows no example"
            changed = {name: browser.execute_script(CHANGED, *change) for name, change in FILTERS.items()}
            for name, value in ({"first_paint": paint, "interactive": loaded} | changed).items():
                if number and value is not None:
                    found[name].append(value)
        version = browser.capabilities["browserVersion"]
    times = {
        name: {"median": round(statistics.median(values)), "range": [round(min(values)), round(max(values))]}
        for name, values in found.items()
        if values
    }
    return {"chromium": version, "rounds": rounds, "milliseconds": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=625)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if BINARY is None or DRIVER is None:
        parser.error("there is no chromium with its chromedriver: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as folder:
        report.write(comparison(given.prompts, given.samples), Path(folder))
        page = Path(folder) / "report.html"
        found = measured(page, given.rounds, Path(folder) / "profile")
        size = {
            "responses": len(CHOSEN) * given.prompts * given.samples,
            "megabytes": round(page.stat().st_size / 1e6, 2),
        }
    sides.record(RESULT, size | found)
    print(json.dumps(size | found, indent=1))


if __name__ == "__main__":
    main()
