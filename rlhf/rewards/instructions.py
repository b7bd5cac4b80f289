"""Instructions that a program can check: the 25 kinds of IFEval, Zhou et al. 2023, https://arxiv.org/abs/2311.07911.

A prompt's row has ``instruction_id_list`` and the arguments of each instruction in ``kwargs``, as in the published
set. A prompt is followed if all of its instructions are ("strict" accuracy).

Three checks differ from the published code. A keyword is literal text, not a regular expression, so "C++" works. A
letter may be any character; the published code replaces a non-letter by a random letter. Sentences and words are split
by the rules below instead of by NLTK, which would download models.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf.errors import ConfigError, DataError

Row = Mapping[str, Any]
Check = Callable[..., bool]

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
ABBREVIATION = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Inc|Ltd|Jr|Sr|Co|vs|etc|e\.g|i\.e|[A-Z])\.$|\b(?:[A-Za-z]\.){2,}$"
)
SENTENCE_END = re.compile(r"[.!?…。！？।]+[\"'”’)\]]*(?=\s|$)|(?<=[。！？।])")


def compares(relation: str, count: int, threshold: int) -> bool:
    """Return whether ``count`` is "less than" or "at least" ``threshold``.

    Raises:
        DataError: the relation is another one.
    """
    if relation not in ("less than", "at least"):
        raise DataError(f"the relation of an instruction must be 'less than' or 'at least', got {relation!r}")
    return count < threshold if relation == "less than" else count >= threshold


def sentences(text: str) -> list[str]:
    """Return the sentences of a text. They end at an empty line or at ``.!?`` before a blank, but not at ``Dr.``."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        start = 0
        for match in SENTENCE_END.finditer(paragraph):
            piece = paragraph[start : match.end()]
            if not ABBREVIATION.search(piece) or match.end() == len(paragraph):
                found.append(piece)
                start = match.end()
        found.append(paragraph[start:])
    return [piece.strip() for piece in found if re.search(r"\w", piece)]


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None if it cannot be detected, as without letters.

    Raises:
        ConfigError: langdetect is not installed.
    """
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError as error:
        raise ConfigError(
            "instructions about a language need langdetect, which is not installed: pip install langdetect"
        ) from error
    DetectorFactory.seed = 0  # detection is random
    try:
        return detect(text)
    except LangDetectException:
        return None


def is_in(text: str, language: str) -> bool:
    """Return whether a text is in a language; as published, a text whose language cannot be detected passes."""
    return language_of(text) in (language, None)


def count_letter(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """Return whether a character occurs as often as requested, in either case."""
    return compares(let_relation, text.lower().count(letter.lower()), let_frequency)


def count_keyword(text: str, keyword: str, frequency: int, relation: str) -> bool:
    """Return whether a keyword occurs as often as requested, in either case."""
    return compares(relation, text.lower().count(keyword.strip().lower()), frequency)


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
    """Return whether all keywords occur, in either case."""
    return all(word.lower() in text.lower() for word in keywords)


def has_none_of(text: str, forbidden_words: Sequence[str]) -> bool:
    """Return whether no forbidden word occurs as a whole word, in either case."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)


def count_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """Return whether the number of `sentences` is as requested."""
    return compares(relation, len(sentences(text)), num_sentences)


def count_words(text: str, num_words: int, relation: str) -> bool:
    """Return whether the number of words is as requested."""
    return compares(relation, len(re.findall(r"\w+", text)), num_words)


def count_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Return whether there are N paragraphs separated by ``***``; only the first and the last piece may be empty."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1]
    return all(part.strip() for part in inner) and sum(bool(part.strip()) for part in parts) == num_paragraphs


def starts_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Return whether there are N paragraphs separated by empty lines, and the nth begins with the word."""
    parts = text.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = parts[nth_paragraph - 1].split()
    return bool(words) and re.split("[.,?!'\"]", words[0].lstrip("'\""))[0].lower() == first_word.lower()


def has_placeholders(text: str, num_placeholders: int) -> bool:
    """Return whether there are at least N placeholders in square brackets."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def has_postscript(text: str, postscript_marker: str) -> bool:
    """Return whether the marker of a postscript occurs, in either case; "p. s." counts as "P.S."."""
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = known.get(postscript_marker.strip(), re.escape(postscript_marker.strip().lower()))
    return re.search(marker, text.lower()) is not None


def count_bullets(text: str, num_bullets: int) -> bool:
    """Return whether there are exactly N bullet points, lines that start with ``*`` or ``-``."""
    return len(re.findall(r"^\s*(?:\*[^*\n]|-).*$", text, re.MULTILINE)) == num_bullets


def is_an_option(text: str) -> bool:
    """Return whether one of `OPTIONS` occurs."""
    return any(option in text for option in OPTIONS)


def count_highlights(text: str, num_highlights: int) -> bool:
    """Return whether there are at least N non-empty highlights; as published, ``**x**`` counts as one of each kind."""
    single = [match.strip("*").strip() for match in re.findall(r"\*[^\n*]*\*", text)]
    double = [match[2:-2].strip() for match in re.findall(r"\*\*[^\n*]*\*\*", text)]
    return sum(map(bool, single + double)) >= num_highlights


def count_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """Return whether there are at least N section headings: the splitter and a number."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def json_in(text: str) -> Any:
    """Return the whole text parsed as JSON, with or without a Markdown fence.

    Raises:
        ValueError, RecursionError: it is not JSON, or nested too deeply.
    """
    return json.loads(re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip())


def is_json(text: str) -> bool:
    """Return whether the whole text is JSON, with or without a Markdown fence."""
    try:
        json_in(text)
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str) -> bool:
    """Return whether there is a non-empty title in double angle brackets."""
    return any(title.strip("<> \t") for title in re.findall(r"<<[^\n]+>>", text))


def has_two_responses(text: str) -> bool:
    """Return whether there are two different responses, separated by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    found = [part for part in parts if part]
    return all(parts[1:-1]) and len(found) == 2 and found[0] != found[1]


def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    """Return whether the text begins with the prompt, in either case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(text: str, end_phrase: str) -> bool:
    """Return whether the text ends with the phrase, in either case; quotation marks around the text are ignored."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def is_quoted(text: str) -> bool:
    """Return whether the whole text is in double quotation marks."""
    whole = text.strip()
    return len(whole) > 1 and whole[0] == whole[-1] == '"'


def count_capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Return whether the number of words in capitals is as requested; a hyphenated word is one word."""
    words = [word for word in re.findall(r"[\w'’-]+", text) if word.isupper()]
    return compares(capital_relation, len(words), capital_frequency)


CHECKS: dict[str, Check] = {
    "change_case:capital_word_frequency": count_capitals,
    "change_case:english_capital": lambda text: text.isupper() and is_in(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and is_in(text, "en"),
    "combination:repeat_prompt": repeats_prompt,
    "combination:two_responses": has_two_responses,
    "detectable_content:number_placeholders": has_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:constrained_response": is_an_option,
    "detectable_format:json_format": is_json,
    "detectable_format:multiple_sections": count_sections,
    "detectable_format:number_bullet_lists": count_bullets,
    "detectable_format:number_highlighted_sections": count_highlights,
    "detectable_format:title": has_title,
    "keywords:existence": has_keywords,
    "keywords:forbidden_words": has_none_of,
    "keywords:frequency": count_keyword,
    "keywords:letter_frequency": count_letter,
    "language:response_language": is_in,
    "length_constraints:nth_paragraph_first_word": starts_paragraph,
    "length_constraints:number_paragraphs": count_paragraphs,
    "length_constraints:number_sentences": count_sentences,
    "length_constraints:number_words": count_words,
    "punctuation:no_comma": lambda text: "," not in text,
    "startend:end_checker": ends_with,
    "startend:quotation": is_quoted,
}


def followed(row: Row, response: str) -> list[bool]:
    """Return for each instruction of a row whether it is followed. An empty response follows none, as published.

    Raises:
        DataError: an instruction is of an unknown kind, or has arguments that its check does not take.
    """
    found = []
    for kind, options in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        options = json.loads(options) if isinstance(options, str) else options  # tables hold them as JSON
        arguments = {name: value for name, value in (options or {}).items() if value is not None}
        if kind not in CHECKS:
            raise DataError(f"instruction_id_list has {kind!r}, which is not one of {', '.join(CHECKS)}")
        try:
            found.append(bool(response.strip()) and CHECKS[kind](response, **arguments))
        except TypeError as error:
            raise DataError(f"the kwargs {arguments} do not fit the instruction {kind}: {error}") from error
    return found


def check_rows(rows: Sequence[Row]) -> None:
    """Check every instruction on a dummy response, so that invalid ones are rejected before a model is loaded.

    Raises:
        DataError, ConfigError: see `followed` and `language_of`.
    """
    for row in rows:
        if row.get("instruction_id_list") is not None:
            followed(row, "word")
