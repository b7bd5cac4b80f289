"""Data sheets of all files in a folder. Only statistics are written: the licenses forbid redistribution of the rows.

    RLHF_TEST_MODELS=... RLHF_TEST_DATA=... python -m benchmarks.data_sheets

Writes benchmarks/data_sheets.md. Lengths are in tokens of SmolLM2-135M-Instruct.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from rlhf.cli.main import register, settings_of
from rlhf.data.sheet_report import facts, tables
from rlhf.stages import execute
from rlhf.storage.markdown import table
from rlhf.storage.paths import bundled

RESULT = Path(__file__).with_suffix(".md")
MODEL = "SmolLM2-135M-Instruct"
TITLE = f"""# Data sheets

Written by `python -m benchmarks.data_sheets`: the results of `stage=inspect` on each file of a folder of real data.
Only the path of a file is set; its layout is detected. Lengths are in tokens of {MODEL}. Near duplicates
are searched among at most 20,000 rows; languages are detected on 2,000. "longer wins" is the share of pairs whose
chosen response has more characters; ties count half.
"""
COLUMNS = (
    "file", "read as", "rows", "prompts", "duplicates", "near", "contradicting", "longer wins", "over 1,024 tokens",
    "languages",
)  # fmt: skip


def inspected(file: Path, tokenizer: Path, folder: Path) -> dict[str, Any]:
    """Run stage=inspect on one file and return its data.json."""
    overrides = ["stage=inspect", f"checkpoints={folder}", f"data.path='{file}'", f"stage.tokenizer='{tokenizer}'"]
    with initialize_config_dir(config_dir=str(bundled("conf")), version_base="1.3"):
        settings = settings_of(compose(config_name="config", overrides=[*overrides, "stage.examples=0"]))
    execute(settings, folder / file.stem)
    return json.loads((folder / file.stem / "data.json").read_text(encoding="utf-8"))


def row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    sheet = one["sheet"]
    shown = dict(facts(sheet))
    longer = "" if sheet["longer"] is None else f"{sheet['longer']:.3f}"
    near = shown["near duplicates"].partition(" of ")[0]
    return (
        name, f"{one['kind']}, {shown['layout']}", shown["rows"], shown["distinct prompts"],
        shown["exact duplicates"], near,
        shown.get("contradicting pairs", ""), longer, shown.get("longer than 1,024 tokens", ""),
        shown["languages"].partition(" of ")[0],
    )  # fmt: skip


def section(name: str, one: dict[str, Any]) -> list[str]:
    sheet = one["sheet"]
    shown = [(fact, value) for fact, value in facts(sheet) if fact != "tokens of"]  # a path of this machine
    return [f"## {name}", "", *tables(sheet, shown), ""]


def main() -> None:
    register()
    root, models = Path(os.environ["RLHF_TEST_DATA"]), Path(os.environ["RLHF_TEST_MODELS"])
    found: list[tuple[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(root.glob("*/*.gz")):
            [one] = inspected(file, models / MODEL, Path(folder))["sheets"]
            found.append((str(file.relative_to(root)), one))
    whole = [*table(COLUMNS, (row(name, one) for name, one in found)), ""]
    sections = [line for name, one in found for line in section(name, one)]
    RESULT.write_text("\n".join([TITLE, *whole, *sections]), encoding="utf-8")
    print("\n".join(whole))


if __name__ == "__main__":
    main()
