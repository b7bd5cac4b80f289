"""Convert rows of every known layout into TRL's types with an explicit prompt.

    preferences      {prompt, chosen, rejected}      text: {text}
    demonstrations   {prompt, completion}            prompts: {prompt}
    thumbs           {prompt, completion} with a label, 1 for desirable and 0 for undesirable, or with a rating

Prompt and completions are strings (standard) or lists of ``{"role", "content"}`` messages (conversational). A reader
returns all fields of a row in its layout; a `Converter` takes those that a kind of data needs, so preference pairs
also serve as prompts and, by their chosen completions, as demonstrations. One row may give several, and two may give
one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from rlhf.config import Format, Pairing
from rlhf.data import judged, layouts, readers, rows
from rlhf.data.cells import Cells, refuse_more, unfolded
from rlhf.data.detection import NO_FORMAT, detect
from rlhf.data.extras import COLUMNS, INSTRUCTIONS, LABELS, as_json, has_instructions, label, margin, number_or_none
from rlhf.data.pairs import SAME, UNPAIRED, Ranked, Rated, Waiting, both, pairs, sides
from rlhf.data.rows import Row, RowError, has
from rlhf.data.singles import ORIGIN, Singles

Kind = Literal["text", "demonstrations", "preferences", "prompts", "thumbs"]
KINDS: tuple[Kind, ...] = ("text", "demonstrations", "preferences", "prompts")  # each with a source
FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "demonstrations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "thumbs": ("prompt", "completion"),
}
NEEDS = {
    "text": "every row of text needs text",
    "demonstrations": "every demonstration needs prompt and completion, or messages",
    "preferences": "every preference pair needs prompt, chosen and rejected",
    "prompts": "every row of prompts needs prompt",
    "thumbs": "every row of thumbs needs prompt, completion and label, or prompt, chosen and rejected",
}
NO_RANKING = "prompts with fewer than two ranked responses"
NO_RESPONSE = "prompts without a response"
BAD = "completions that are marked as bad"
REPEATED = "the prompt repeated in its responses, taken out of them"
CHOSEN = "the chosen response of a pair as the completion"

Found = Row | Sequence[Ranked | Rated]
READERS: dict[Format, Callable[[Row], Found]] = {
    Format.standard: readers.read_standard,
    Format.hh: readers.read_hh,
    Format.ultrafeedback: readers.read_ultrafeedback,
    Format.ultrafeedback_raw: judged.read_ultrafeedback_raw,
    Format.tldr_comparisons: readers.read_tldr_comparisons,
    Format.helpsteer: judged.read_helpsteer,
    Format.scores: judged.read_scores,
    Format.shp: judged.read_shp,
    Format.kto: judged.read_kto,
    Format.arena: judged.read_arena,
    Format.alpaca_eval: judged.read_alpaca_eval,
    Format.oasst: judged.read_oasst,
    Format.alpaca: readers.read_alpaca,
    Format.sharegpt: readers.read_sharegpt,
    Format.reward_bench: layouts.read_lists,
} | {layout: partial(layouts.read, layout=layout) for layout, _ in layouts.JUDGED}


def kinds_of(row: Row, layout: Format, pairing: Pairing) -> list[Kind]:
    """Return the kinds that a row can be read as, the richest first; plain text is text first, despite its opening.

    Raises:
        RowError: the row cannot be read as any kind.
    """
    plain = has(row, "text") and not has(row, "completion")
    order: tuple[Kind, ...] = ("text", *KINDS) if plain else ("preferences", "demonstrations", "prompts", "text")
    kinds: list[Kind] = []
    problems = []
    for kind in dict.fromkeys(order):
        try:
            Converter(kind, pairing).read(row, layout)
            kinds.append(kind)
        except RowError as error:
            problems.append(error)
    if kinds or (layout is Format.auto and detect(row)[1] == NO_FORMAT):
        return kinds
    raise problems[0]


class Converter:
    """A converter of rows of any layout into rows of ``kind``. ``left_out`` counts unused data by reason.

    Thumbs and single ratings wait for a counterpart in a later row; `finish` counts those that still wait. With
    ``columns``, a row keeps all columns of the row in the file.
    """

    def __init__(self, kind: Kind, pairing: Pairing, columns: bool = False):
        self.kind, self.pairing, self.columns = kind, pairing, columns
        self.left_out: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.layouts: dict[str, str] = {}  # layout -> why it was chosen, as a clause
        self.counts: Counter[str] = Counter()  # layout -> rows
        self.unread: dict[str, None] = {}  # columns that have a value and are not read
        self.singles = Singles()  # that stage=kto reads from these rows
        self._waiting = Waiting()
        self._for_rewards = columns and kind == "prompts"  # which may read any score

    def read(self, row: Row, layout: Format) -> list[Row]:
        """Convert a row of a file; ``auto`` detects its layout.

        Raises:
            RowError: see `__call__`; or the detected layout ignores a response or a judgment.
        """
        whole = row = unfolded(row)
        if self.kind == "prompts":  # the answer may be a number or a list
            row = {name: value for name, value in row.items() if name not in readers.ANSWERS or isinstance(value, str)}
        guessed = layout is Format.auto
        layout, why = detect(row) if guessed else (layout, "set by data.format")
        self.counts[layout.value] += 1
        self.layouts.setdefault(layout.value, why)
        cells = Cells(row)
        made = self(cells, layout, guessed)
        if self.columns:
            return [one | {COLUMNS: as_json(whole)} for one in made]
        self.unread.update(dict.fromkeys(cells.unread()))
        return made

    def __call__(self, row: Row, layout: Format, guessed: bool = False) -> list[Row]:
        """Convert a row of ``layout``, which is not auto, with its optional fields.

        Raises:
            RowError: a field is missing, of the wrong type or empty, or chosen and rejected are of different types.
        """
        found = READERS[layout](row)
        if isinstance(found, dict):
            if guessed and not self._for_rewards:
                self._refuse_less(row, found)
            made = [self._unrepeated(found)]
            if self.kind in ("thumbs", "preferences"):
                made = self._counted(made[0])
        else:
            made = [one for judged in found for one in self._judged(judged)]
        return [self._checked(row, one) | self._extras(row, one) for one in made]

    def _refuse_less(self, row: Row, found: Row) -> None:
        """Refuse to read half of a pair, or a judged response, as data without a judgment."""
        missing = [field for field in ("chosen", "rejected") if field not in found]
        if len(missing) == 1:
            beside = "rejected" if missing == ["chosen"] else "chosen"
            raise RowError(missing[0], f"is missing beside {beside}; {NEEDS['preferences']}")
        if missing and isinstance(row, Cells):
            refuse_more(row.unread(), ratings="text" not in found)

    def _unrepeated(self, found: Row) -> Row:
        """Return ``found`` without the prompt at the beginning of both responses, or of a conversation."""
        prompt = found.get("prompt")
        names = [name for name in ("chosen", "rejected") if name in found]
        if "completion" in found and isinstance(prompt, list):
            names.append("completion")
        long = prompt and (isinstance(prompt, list) or len(prompt.split()) > 1)  # one word may begin both by chance
        if not (long and names and all(_continues(found[name], prompt) for name in names)):
            return found
        self.kept[REPEATED] += 1
        return found | {name: found[name][len(prompt) :] for name in names}

    def _counted(self, pair: Row) -> list[Row]:
        """Return a pair, or, of the kind thumbs, both of its responses if they differ, and count these."""
        missing = [field for field in ("chosen", "rejected") if field not in pair]
        if missing and self.kind == "thumbs":
            raise RowError("label" if len(missing) == 2 else missing[0], f"is missing; {NEEDS['thumbs']}")
        responses = [] if missing or pair["chosen"] == pair["rejected"] else both(pair)
        self.singles.count(responses)
        if self.kind != "thumbs":
            return [pair]
        self.left_out.update([SAME] * (not responses))
        return responses

    @property
    def waits(self) -> bool:
        """Whether a response waits for a counterpart in a later row."""
        return len(self._waiting) > 0

    def add(self, later: "Converter") -> None:
        """Add the counts of a converter of later rows, in which no response waits."""
        for name in ("left_out", "kept", "counts"):
            getattr(self, name).update(getattr(later, name))
        self.singles.add(later.singles)
        self.layouts = later.layouts | self.layouts
        self.unread |= later.unread

    def finish(self) -> None:
        """Count the responses that still wait for a counterpart as left out."""
        if waiting := len(self._waiting):
            self.left_out[UNPAIRED] += waiting

    def _judged(self, found: Ranked | Rated) -> list[Row]:
        if self.kind in ("thumbs", "preferences") or isinstance(found, Rated):
            left_out = self.left_out if self.kind == "thumbs" else Counter()
            self.singles.count(single := sides(found, self.pairing, left_out))
            if self.kind == "thumbs":
                return single
        if self.kind not in ("preferences", "demonstrations"):
            return [{"prompt": found.prompt}]
        if isinstance(found, Rated):
            if self.kind == "preferences":
                return self._waiting.match(found, self.pairing, self.left_out)
            if found.demonstrates:
                return [{"prompt": found.prompt, "completion": found.completion}]
            self.left_out[BAD] += 1
        elif self.kind == "preferences":
            if len(found.responses) > 1:
                return pairs(found, self.pairing, self.left_out)
            self.left_out[NO_RANKING] += 1
        elif found.responses:
            return [{"prompt": found.prompt, "completion": found.best()}]
        else:
            self.left_out[NO_RESPONSE] += 1
        return []

    def _checked(self, row: Row, found: Row) -> Row:
        kind, tools = self.kind, rows.tools(found.get("tools", row.get("tools")))
        if tools is not None and "prompt" in found:
            found = rows.as_conversation(found)
            found["prompt"] = [found["prompt"][0] | {"tools": tools}, *found["prompt"][1:]]
        if kind == "demonstrations" and "completion" not in found and "chosen" in found:
            found = found | {"completion": found["chosen"]}
            self.kept[CHOSEN] += 1
        for field in FIELDS[kind]:
            if field not in found:
                raise RowError(field, f"is missing; {NEEDS[kind]}")
        result = {field: found[field] for field in FIELDS[kind]}
        if "prompt" in result and (not result["prompt"] or rows.is_blank(result["prompt"])):
            raise RowError("prompt", f"is empty; {NEEDS[kind]}")
        types = {field: type(value) for field, value in result.items()}
        if len(set(types.values())) > 1:
            described = ", ".join(f"{f} is {'a conversation' if t is list else 'text'}" for f, t in types.items())
            raise RowError(next(reversed(types)), f"must have the type of the prompt: {described}")
        return result

    def _extras(self, row: Row, found: Row) -> dict[str, Any]:
        """Return the optional fields: labels, and for a pair its margin, weight and the annotator's confidence."""
        kept: dict[str, Any] = {field: text for field in LABELS if (text := label(row.get(field))) is not None}
        if self.kind == "preferences":
            nested = row["extra"] if isinstance(row.get("extra"), dict) else {}
            confidence = number_or_none(row if has(row, "confidence") else nested, "confidence")
            weight = found.get("weight", number_or_none(row, "weight"))
            strength = found["margin"] if "margin" in found else margin(row)
            numbers = {"margin": strength, "confidence": confidence, "weight": weight}
            kept |= {field: float(value) for field, value in numbers.items() if value is not None}
        if self.kind == "thumbs":
            kept |= {field: float(found[field]) for field in ("label", "rating") if field in found}
            kept[ORIGIN] = found[ORIGIN]
        if self.kind == "prompts" and has_instructions(row):
            kept |= {field: row[field] for field in INSTRUCTIONS}
        return kept


def _continues(response: Any, prompt: Any) -> bool:
    start = len(prompt)
    return type(response) is type(prompt) and len(response) > start and response[:start] == prompt
