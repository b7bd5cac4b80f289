"""Detect the layout of a row by its columns and the types of their values."""

from rlhf.config import Format
from rlhf.data import judged, layouts, readers, transcripts
from rlhf.data.rows import Row, has

NO_FORMAT = "no other format has its columns"
# A row with all of these columns has that layout; the first match counts.
COLUMNS: tuple[tuple[Format, tuple[str, ...]], ...] = (
    (Format.tldr_comparisons, ("info", "summaries", "choice")),
    (Format.alpaca_eval, ("instruction", "output_1", "output_2")),
    (Format.ultrafeedback_raw, ("instruction", "completions")),
    (Format.shp, ("history", "human_ref_A", "human_ref_B")),
    (Format.arena, ("conversation_a", "conversation_b")),
    (Format.arena, ("response_a", "response_b", "prompt", "winner")),
    (Format.arena, ("response_a", "response_b", "prompt", "winner_model_a")),
    (Format.helpsteer, ("response_1", "response_2", "preference_strength")),
    (Format.helpsteer, ("response1", "response2", "overall_preference")),
    (Format.helpsteer, ("prompt", "response", "helpfulness")),
    (Format.scores, ("prompt", "responses", "scores")),
    *((layout, entry.columns()) for layout, entry in layouts.JUDGED if layout is not Format.pku_safer),
)


def detect(row: Row) -> tuple[Format, str]:
    """Return the layout of a row and the reason for it, as a clause."""
    pair, filled = has(row, "chosen", "rejected"), {name for name, value in row.items() if value is not None}
    for layout, columns in COLUMNS:
        if filled.issuperset(columns) and _fits(row, layout, pair):
            return layout, f"it has {', '.join(columns[:-1])} and {columns[-1]}"
    if label := judged.label_of(row):
        return Format.kto, f"it has {label} for one answer"
    if isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]:
        return Format.oasst, "its prompt is a message with replies"
    if has(row, "conversations"):
        return Format.sharegpt, "it has conversations"
    if pair and (found := _of_pair(row)):
        return found
    if readers.is_asked(row):
        name = readers.first(row, readers.QUESTIONS)
        return Format.alpaca, f"it has {name}" + (" and no prompt" if name != "prompt" else " and an answer")
    fields = ("prompt", "chosen", "rejected", "completion", *readers.DIALOGUES, "text")
    found = [field for field in fields if has(row, field)]
    return Format.standard, f"it has {', '.join(found)}" if found else NO_FORMAT


def _fits(row: Row, layout: Format, pair: bool) -> bool:
    """Return whether the columns have the types of a layout. distilabel adds the resulting pair to its ratings."""
    lists = [entry.responses for name, entry in layouts.JUDGED if name is layout and isinstance(entry, layouts.Listed)]
    listed = all(isinstance(row[name], list) for name in lists if has(row, name))
    return listed and not (pair and layout is Format.distilabel)


def _of_pair(row: Row) -> tuple[Format, str] | None:
    """Return the layout of a row with chosen and rejected if their values decide it."""
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, list) and isinstance(rejected, list):
        if any(isinstance(response, str) for response in (*chosen, *rejected)):
            return Format.reward_bench, "chosen and rejected are lists of texts"
        if not isinstance(prompt, list) and not has(row, "trajectory"):
            return Format.ultrafeedback, "chosen and rejected are conversations that include the prompt"
    elif prompt is None and transcripts.is_transcript(chosen) and transcripts.is_transcript(rejected):
        return Format.hh, "chosen and rejected are 'Human: / Assistant:' transcripts and there is no prompt"
    elif transcripts.is_transcript(prompt):
        return Format.hh, "its prompt is a 'Human: / Assistant:' transcript"
    return None
