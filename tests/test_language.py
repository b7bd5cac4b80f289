"""The language rule of CONTRIBUTING.md over docstrings, comments, messages, YAML comments and Markdown.

python -m tests.test_language          # number of hits for each pattern and each folder
python -m tests.test_language rlhf     # every hit in one folder, as file:line
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SKIPPED_STRINGS = ("tests", "rlhf/almanac")  # strings there are data, or quote messages


class Pattern(NamedTuple):
    """A phrase that the rule forbids, a sentence that has it, and the same sentence as the rule has it."""

    regex: str
    wrong: str
    right: str


AGENT = "second|minute|hour|day|GPU|machine|process|update|step|token|response|prompt|line|row|pair|job|core|seed|stage"
VERBS = (  # before "a row" and the like: an article
    "is|was|as|has|its|this|does|plus|unless|across|towards|besides|versus|adds|appends|asks|becomes|builds|calls|"
    "compares|continues|costs|counts|deletes|draws|ends|fills|finds|fits|gets|gives|holds|ignores|keeps|knows|leaves|"
    "lets|loads|logs|makes|matches|means|misses|names|needs|opens|passes|prints|processes|reads|records|removes|"
    "replaces|returns|runs|saves|says|scores|sees|sends|shows|skips|starts|takes|trains|uses|wants|writes|yields"
)
STEMS = (
    "normal|optim|initial|token|general|standard|regular|minim|maxim|summar|serial|parallel|binar|priorit|random|"
    "quant|recogn|organ|util|categor|visual|final|local|special|penal|real|material|character|parametr|synchron|custom"
)
PATTERNS: dict[str, Pattern] = {
    "where for if or when": Pattern(
        r"\bwhere (there (is|are|was)|it (is|has|does|can)|they (are|have|can)|one|none|no|nothing|nobody|somebody|"
        r"possible|needed|asked|given|several|memory|more|that (is|would)|both|two|an?|the \w+( \w+)? (is|are|has|have|"
        r"allows|does|do|can|cannot|could|were|was)|\w+ (is|are|has|have|may|can|could|cannot) )\b",
        "a GPU is used where there is one",
        "a GPU is used if there is one",
    ),
    "go on": Pattern(r"\b(go|goes|going|went|gone) on\b", "the run goes on", "the run continues"),
    "tell": Pattern(r"\b(tells?|told|telling)\b", "the user is told", "the user sees"),
    "of its own": Pattern(
        r"\bof (its|their|our|one's|my|your|his|her|somebody's) own\b|\bof (ours|theirs|yours|somebody else's)\b",
        "each in a process of its own",
        "each in a separate process",
    ),
    "is no": Pattern(
        r"(?<!there )\b(is|are|was|were|be) no (?!(longer|better|worse|more|less|fewer|later|earlier|smaller)\b)",
        "a loss that is no number",
        "a loss that is not a number",
    ),
    "is none": Pattern(r"\b(is|are|was|be) none\b|\bof none\b", "there is none", "it is missing"),
    "clause with what as a subject": Pattern(
        r"(^|(?<=[.;:!] )|(?<=\n\n))[Ww]hat (?!(is|are|does|do|did|if|about|to|happens) )"
        r"[^.?!|\n]{3,90}\b(is|are|was|has|have|must|can|cannot|does|stays|comes|goes|fits)\b[^?|\n]{0,90}[.;:]",
        "What is scored counts. What cannot read must be beaten.",
        "The baselines must be beaten.",
    ),
    "clause with what after a preposition": Pattern(
        r"\b(than|from|with|of|by|beside|above|for|without|behind|under|over|below|about|to) what\b",
        "it starts from what was trained",
        "it starts from the trained model",
    ),
    "a for per": Pattern(
        r"\b(?!(?:"
        + VERBS
        + r") )(\w+s|GiB|GB|MiB|bytes|one|once|twice|file|process|row|line) an? ("
        + AGENT
        + r")s?\b(?! (of|that|with|"
        r"which|and|in|to|for|from|is|has|by|at|on|before|after|whose|or|later|ago|ends|starts|time|further)\b)",
        "tokens a second, a process a GPU",
        "tokens per second, one process per GPU",
    ),
    "alone for only": Pattern(
        r"\b(?!(?:left|leave|leaves|leaving|stands?|let|is|are|be|runs?) )[\w`]+ alone(?=[.,;:)]|$| (is|are|and|to|in|"
        r"for|by|of|can|has|learns?|with|on)\b)",
        "the loss counts completions alone.",
        "only completions count in the loss.",
    ),
    "by itself": Pattern(
        r"\b(by|of) (itself|themselves)\b", "a response that ends by itself", "a response that ends with EOS"
    ),
    "wear": Pattern(r"\b(wears?|worn|wearing)\b", "a role wears its adapter", "a role has its adapter attached"),
    "British -ise": Pattern(
        r"\b(un|de|re|pre)?(" + STEMS + r")is(e|es|ed|er|ers|ing|able|ation|ations)\b", "normalise", "normalize"
    ),
    "British -our, -re, -ll-": Pattern(
        r"\b(behaviour|colour|favour|honour|labour|neighbour)\w*\b|\b(grey|centred?|centring|licences?|licenced|defence|"
        r"catalogue|programme|artefacts?|analys(e|es|ed|ing)|judgements?)\b|\b(label|model|cancel|travel|signal|total|"
        r"channel|level|marshal)l(ed|ing|er|ers)\b|\b(learnt|spelt|spoilt|burnt|whilst|amongst|ageing)\b",
        "the licence of labelled data",
        "the license of labeled data",
    ),
    "mend": Pattern(r"\bmend(s|ed|ing)?\b", "the temperature that mends it", "the temperature that corrects it"),
    "give for set": Pattern(
        r"\b[Gg]iv(e|es|en|ing) (it )?(a )?`?(--)?[a-z_]+(\.[a-z_{}]+)*=", "give stage.beta=0.1", "set stage.beta=0.1"
    ),
    "Of X, at the start": Pattern(
        r"(^|(?<=[.;:!] )|(?<=\n\n))Of (?!course\b)[a-z]\w*\b[^.]{3,}",
        "Of a long prompt the end is kept.",
        "The end of a long prompt is kept.",
    ),
    "that there is": Pattern(r"\b(that|as|than) there (is|are)\b", "the closest that there is", "the closest match"),
    "as it is": Pattern(
        r"\bas (it|they) (is|are|was|were)(?! (told|asked|meant|measured|written|read|trained|possible))\b",
        "handed to TRL as it is",
        "passed to TRL unchanged",
    ),
    "so many": Pattern(r"\bso (many|much|few)\b(?! (that|as|longer|shorter))", "every so many steps", "every N steps"),
    "at hand": Pattern(r"\b(at|to) hand\b", "if a GPU is at hand", "if a GPU is available"),
    "torn": Pattern(r"\btorn\b", "a torn checkpoint", "a corrupted checkpoint"),
    "whoever": Pattern(r"\bwhoever\b|\b(for|by|to|from) who\b", "for who reads the file", "for readers"),
    "nothing else": Pattern(
        r"\b(and|or|but) (nothing|nobody|none|no others?) else\b|\belse than\b|\bwhat else\b",
        "its rows and nothing else",
        "only its rows",
    ),
    "need not": Pattern(r"\bneeds? (not|no)\b", "a corpus need not fit", "a corpus does not have to fit"),
    "hold against": Pattern(r"\bheld (against|to)\b", "held against TRL's loss", "compared with TRL's loss"),
    "without a word": Pattern(
        r"\b(without a word|in a sentence|in one sentence|says so|said so|say so)\b",
        "refused in one sentence",
        "refused with a one-line error",
    ),
}
COMPILED = {
    name: re.compile(re.sub(r" (?![^\[]*\])", r"[ \\n]", pattern.regex)) for name, pattern in PATTERNS.items()
}  # a phrase may continue on the next line


class Hit(NamedTuple):
    path: Path
    line: int
    pattern: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.pattern}: {' '.join(self.text.split())[:80]}"


def blank(found: re.Match) -> str:
    """Return the line breaks of a match, so that the text behind it keeps its line number."""
    return "x" + "\n" * found[0].count("\n")


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the prose of a Markdown file or an HTML template: no code, no comment, no link target, no tag."""
    for pattern in (r"^( *)```.*?^\1```", r"\A---\n.*?^---\n", r"<!--.*?-->", r"<(script|style).*?</\1>", r"\{%.*?%\}",
                    r"\{\{.*?\}\}", r"``.+?``", r"`[^`\n]+`", r"\]\([^)\s]+\)", r"https?://\S+", r"</?[a-z][^>]*>",
                    r"\$[^$\n]+\$"):  # fmt: skip
        text = re.sub(pattern, blank, text, flags=re.DOTALL | re.MULTILINE)
    yield 1, text


def comments(text: str, opening: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of YAML or TOML; lines that are nothing but a comment are joined with the ones before."""
    start, block = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.search(rf"(?:^|\s){opening}\s?(.*)$", line)
        if block and not (found and line.lstrip().startswith(opening)):
            yield start, block
            block = ""
        if found:
            start, block = (start, f"{block}\n{found[1]}") if block else (number, found[1])
    yield start, block


def python(text: str, strings: bool) -> Iterator[tuple[int, str]]:
    """Yield docstrings, comments and, if ``strings``, every string with a space in it."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(one.value): one.value for one in bodies if isinstance(one, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings or (strings and " " in node.value and id(node) not in inside):
                yield node.lineno, node.value
        elif strings and isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(map(str, parts))
    start, end, block = 0, -1, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(fmt|noqa|type):", token.string):
            number, written = token.start[0], token.string.lstrip("#").strip()
            alone = token.line.lstrip().startswith("#")
            if block and (number != end + 1 or not alone):
                yield start, block
                block = ""
            start, end, block = (start, number, f"{block}\n{written}") if block else (number, number, written)
    yield start, block


def prose(path: Path) -> Iterator[tuple[int, str]]:
    text, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    if path.suffix == ".py":
        found = python(text, strings=not place.startswith(SKIPPED_STRINGS))
    elif path.suffix in (".yaml", ".yml", ".toml"):
        found = comments(text, "#")
    else:
        found = markdown(text)
    for line, passage in found:
        yield line, re.sub(r"\n[ \t]+", "\n", re.sub(r"``[^`]+``|`[^`\n]+`", blank, passage))


def hits(path: Path) -> Iterator[Hit]:
    for start, passage in prose(path):
        for name, pattern in COMPILED.items():
            for found in pattern.finditer(passage):
                line = start + passage.count("\n", 0, found.start())
                yield Hit(path, line, name, found[0])


def files() -> dict[str, list[Path]]:
    """Return the files of each folder; a package of rlhf/ is a folder, and so is the root."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.suffix not in (".py", ".yaml", ".yml", ".toml", ".md", ".jinja", ".html") or not path.is_file():
            continue
        if any(part.startswith(".") for part in parts) or parts[0] in ("site", "build", "dist", "shared"):
            continue
        if (parts[0] == "checkpoints" and path.name != "README.md") or "chat_template" in parts:
            continue
        depth = 2 if parts[0] == "rlhf" and len(parts) > 2 else 1
        found.setdefault("/".join(parts[:depth]), []).append(path)
    return found


FOLDERS = files()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_language_rule_is_kept(folder: str) -> None:
    found = [str(hit) for path in FOLDERS[folder] for hit in hits(path)]
    assert not found, "\n".join([f"{len(found)} against the rule of CONTRIBUTING.md", *found])


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_finds_the_wrong_sentence_and_not_the_right_one(name: str) -> None:
    assert COMPILED[name].search(PATTERNS[name].wrong)
    assert not [other for other, pattern in COMPILED.items() if pattern.search(PATTERNS[name].right)]


def test_every_kind_of_prose_is_read_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    written = {
        "a.py": '"""A.\n\nThe run\ngoes on.\n"""\nx = f"{1} goes on"  # goes on\n# the run goes\n# on\ny = "go_on"\n',
        "a.yaml": "x: goes on # goes on\n# the run goes\n# on\n",
        "a.md": "It goes on.\n\n```\nit goes on\n```\n\n`goes on`, and goes\non\n",
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    lines = {name: sorted(hit.line for hit in hits(tmp_path / name)) for name in written}
    assert lines == {"a.py": [4, 6, 6, 7], "a.yaml": [1, 2], "a.md": [1, 7]}


if __name__ == "__main__":
    chosen = sys.argv[1:]
    found = {folder: [hit for path in paths for hit in hits(path)] for folder, paths in FOLDERS.items()}
    if chosen:
        print(*(hit for folder in found for hit in found[folder] if folder.startswith(tuple(chosen))), sep="\n")
    else:
        every = Counter(hit.pattern for one in found.values() for hit in one)
        print(*(f"{count:5}  {name}" for name, count in every.most_common()), sep="\n")
        print(*(f"{len(one):5}  {folder}" for folder, one in found.items() if one), sep="\n")
        print(f"{sum(map(len, found.values())):5}  in all")
