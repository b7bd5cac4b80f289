"""Instructions that a program can check: the 25 kinds of IFEval, Zhou et al. 2023, https://arxiv.org/abs/2311.07911.

A prompt's row has ``instruction_id_list`` and, for each instruction, its arguments in ``kwargs``, as the published set
has them. An instruction is followed or not, and a prompt is when all of its instructions are ("strict" accuracy).

Three checks differ from the published code. A keyword is text and no regular expression ("C++" can be asked for). A
letter may be any character, while there another is drawn at random in the place of one that is no letter. Sentences
and words are told apart by the rules below and not by NLTK, whose models would have to be downloaded.
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
    """``less than`` is strict, ``at least`` is not.

    Raises:
        DataError: the relation is neither.
    """
    if relation not in ("less than", "at least"):
        raise DataError(f"the relation of an instruction must be 'less than' or 'at least', got {relation!r}")
    return count < threshold if relation == "less than" else count >= threshold


def sentences(text: str) -> list[str]:
    """Sentences end at a line break that is followed by another, or at ``.!?`` before a blank; ``Dr.`` ends none."""
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
    """The ISO 639-1 code of a text's language, None where it has no letter to tell it by.

    Raises:
        ConfigError: langdetect is not installed.
    """
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError as error:
        raise ConfigError(
            "instructions about a language need a package that is not installed: pip install langdetect"
        ) from error
    DetectorFactory.seed = 0  # it draws
    try:
        return detect(text)
    except LangDetectException:
        return None


def is_in(text: str, language: str) -> bool:
    """As published, a text whose language cannot be told passes."""
    return language_of(text) in (language, None)


def count_letter(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compares(let_relation, text.lower().count(letter.lower()), let_frequency)


def count_keyword(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compares(relation, text.lower().count(keyword.strip().lower()), frequency)


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
    return all(word.lower() in text.lower() for word in keywords)


def has_none_of(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words)


def count_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compares(relation, len(sentences(text)), num_sentences)


def count_words(text: str, num_words: int, relation: str) -> bool:
    return compares(relation, len(re.findall(r"\w+", text)), num_words)


def count_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are parted by ``***``; an empty one may stand at either end alone."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1]
    return all(part.strip() for part in inner) and sum(bool(part.strip()) for part in parts) == num_paragraphs


def starts_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """There are so many paragraphs, parted by empty lines, and the nth begins with the word."""
    parts = text.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = parts[nth_paragraph - 1].split()
    return bool(words) and re.split("[.,?!'\"]", words[0].lstrip("'\""))[0].lower() == first_word.lower()


def has_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def has_postscript(text: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = known.get(postscript_marker.strip(), re.escape(postscript_marker.strip().lower()))
    return re.search(marker, text.lower()) is not None


def count_bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*\n]|-).*$", text, re.MULTILINE)) == num_bullets


def is_an_option(text: str) -> bool:
    return any(option in text for option in OPTIONS)


def count_highlights(text: str, num_highlights: int) -> bool:
    """``*so*`` and ``**so**``, each on one line and with something in it; as published, the latter is both."""
    once = [match.strip("*").strip() for match in re.findall(r"\*[^\n*]*\*", text)]
    twice = [match[2:-2].strip() for match in re.findall(r"\*\*[^\n*]*\*\*", text)]
    return sum(map(bool, once + twice)) >= num_highlights


def count_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def is_json(text: str) -> bool:
    fenced = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(fenced.strip())
    except ValueError:
        return False
    return True


def has_title(text: str) -> bool:
    return any(title.strip("<> \t") for title in re.findall(r"<<[^\n]+>>", text))


def has_two_responses(text: str) -> bool:
    """Two different ones, parted by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    found = [part for part in parts if part]
    return all(parts[1:-1]) and len(found) == 2 and found[0] != found[1]


def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def is_quoted(text: str) -> bool:
    whole = text.strip()
    return len(whole) > 1 and whole[0] == whole[-1] == '"'


def count_capitals(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Words in capitals; parts joined by a hyphen are one word."""
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
    """Whether each instruction of a row is followed. An empty response follows none, as published.

    Raises:
        DataError: an instruction is of no known kind, or has arguments that its check does not take.
    """
    found = []
    for kind, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        given = json.loads(given) if isinstance(given, str) else given  # as a table holds them
        arguments = {name: value for name, value in (given or {}).items() if value is not None}
        if kind not in CHECKS:
            raise DataError(f"instruction_id_list has {kind!r}, which is none of {', '.join(CHECKS)}")
        try:
            found.append(bool(response.strip()) and CHECKS[kind](response, **arguments))
        except TypeError as error:
            raise DataError(f"the kwargs {arguments} do not fit the instruction {kind}: {error}") from error
    return found


def check_rows(rows: Sequence[Row]) -> None:
    """Try every instruction on a word, so that what cannot be checked is refused before a model is loaded.

    Raises:
        DataError, ConfigError: see `followed` and `language_of`.
    """
    for row in rows:
        if row.get("instruction_id_list") is not None:
            followed(row, "word")
