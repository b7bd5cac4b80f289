"""Locate the rows of a source: the file, folder or Hub data set, and the split in it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from rlhf.config import Data, Format, Source
from rlhf.data.cache import content_digest
from rlhf.data.files import READERS, Unparsed, reader_of, unparsed_rows
from rlhf.data.formats import Kind
from rlhf.errors import DataError
from rlhf.hub.pinned import pin

Split = Literal["train", "validation", "test"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
SHARD = r"(-\d+-of-\d+)?"  # train-00000-of-00003.parquet, as the Hub names parts of large splits


def source_name(kind: Kind) -> str:
    """Return the name in ``data`` of the source of a kind: thumbs are read from the preferences."""
    return "preferences" if kind == "thumbs" else kind


def source_of(data: Data, kind: Kind) -> Source:
    """Return the source of ``kind``: ``data.path`` with its own splits, or the source of the preset."""
    source: Source = getattr(data, source_name(kind))
    if data.path is None:
        return source
    splits = {"train": "train", "validation": None, "test": None}
    return replace(source, path=data.path, mix=None, format=data.format, subset=None, revision=None, **splits)


def own_file(path: Path, format: Format) -> Source:
    """Return the source of a file that a stage wrote, without splits."""
    return Source(
        path=str(path), mix=None, format=format, subset=None, revision=None, train="train", validation=None, test=None,
        limit=None, held_out_limit=None, drop_identical=True,
    )  # fmt: skip


def path_of(source: Source) -> str:
    """Return the path of a source that is set and not a mix."""
    assert source.path is not None
    return source.path


def plan(source: Source, kind: Kind, split: Split) -> tuple[str, bool | None]:
    """Return the split to read, and the part of it to take: held-out (True), the rest (False), all of it (None).

    A single local file has no splits, so the split names of a preset do not apply to it.
    """
    path = Path(path_of(source)).expanduser()
    held_out = {"validation": source.validation, "test": source.test}
    for name, given in held_out.items():
        if path.is_file():
            if given is not None and reader_of(Path(given)) is not None:
                raise DataError(
                    f"data.{source_name(kind)}.{name}={given} names a file beside {path}: put both into one folder, as "
                    f"train.jsonl and {name}.jsonl, and set data.{source_name(kind)}.path to the folder"
                )
            held_out[name] = None
        elif given is None and path.is_dir() and split_files(path, name):
            held_out[name] = name
    test, validation = held_out["test"], held_out["validation"]
    if split == "test" and test is not None:
        return test, None
    if validation is None:
        return source.train, split != "train"
    return source.train if split == "train" else validation, None


def split_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a split in a folder: name.jsonl, for example, or the shards of a large split."""
    suffixes = "|".join(map(re.escape, READERS))
    wanted = re.compile(f"{re.escape(name)}{SHARD}({suffixes})", re.IGNORECASE)
    return sorted(file for file in folder.iterdir() if file.is_file() and wanted.fullmatch(file.name))


def placed_rows(source: Source, kind: Kind, name: str, folder: str) -> tuple[Any, Iterator[Unparsed]]:
    """Return a fingerprint of the rows' content, and the rows with their places, for rlhf.data.files.row_of.

    Digests of large files are cached in ``folder``.

    Raises:
        DataError: the file, folder or Hub data set does not exist or cannot be reached.
    """
    path = Path(path_of(source)).expanduser()
    if path.is_file():
        return _of_files([path], folder)
    if path.is_dir():
        files = split_files(path, name)
        whole = [file for file in files if file.name.lower().removeprefix(name.lower()) in READERS]
        if not files or (whole and len(files) > 1):
            found = f"{len(files)} files" if files else "no file"
            raise DataError(f"{path}: has {found} for the split {name!r}: there must be one, such as {name}.jsonl")
        return _of_files(files, folder)
    if HUB_ID.fullmatch(path_of(source)) and reader_of(path) is None:
        key = f"data.{source_name(kind)}.path"
        return hub_rows(path_of(source), name, key, subset=source.subset, revision=source.revision)
    raise DataError(
        f"{path}: there is no such file or folder (data.path or data.{source_name(kind)}.path): correct the name, "
        "or use a Hub id"
    )


def _of_files(files: list[Path], folder: str) -> tuple[Any, Iterator[Unparsed]]:
    try:
        digests = [content_digest(folder, file) for file in files]
    except OSError as error:
        raise DataError(f"{files[0]}: cannot be read ({error.strerror or error})") from None
    return digests, chain.from_iterable(map(unparsed_rows, files))


def hub_rows(
    named: str, split: str, key: str, *, subset: str | None = None, revision: str | None = None
) -> tuple[Any, Iterator[Unparsed]]:
    """Return the fingerprint and the rows of a split of ``named``, an id or id@revision on the Hub, at its commit.

    ``key`` is the setting of a local file, for the message.

    Raises:
        DataError: the data set or the split does not exist or cannot be reached.
    """
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    path, _, own = named.partition("@")
    pinned = pin(path, revision or own or None, "dataset")
    commit = revision or own or None if pinned is None else pinned.commit
    try:
        builder = load_dataset_builder(path, name=subset, revision=commit)
        if urls := _text_files(builder, split):
            return urls, chain.from_iterable([_rows_at(path, url) for url in urls])
        builder.download_and_prepare()
        dataset: Any = builder.as_dataset(split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError, HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{named}: the split {split!r} cannot be read ({reason}), and there is no such folder here: check the "
            f"Hub id and the connection, or use a local file, {key}=my.jsonl"
        ) from None
    rows = ((f"{path} {split} row {number}", row) for number, row in enumerate(dataset, start=1))
    return dataset._fingerprint, rows


def _text_files(builder: Any, split: str) -> list[str]:
    """Return the hf:// addresses of a split's JSON or CSV files; empty if only ``datasets`` can read the split.

    ``datasets`` 5.2 guesses types of the text in such files, one part of a file at a time: "2019-07-14" becomes a
    timestamp, or "2019-07-14 00:00:00" if another part of the file has other text, and "007" in CSV becomes 7.
    """
    config, default = vars(builder.config), vars(type(builder.config)())
    ignored = ("name", "version", "data_dir", "data_files", "description", "features")
    usual = all(config[option] == default[option] for option in default if option not in ignored)
    files = {str(name): list(urls) for name, urls in (config["data_files"] or {}).items()}.get(split, [])
    readable = all(reader_of(Path(url)) and url.startswith("hf://datasets/") for url in files)
    return files if builder.info.builder_name in ("json", "csv") and usual and readable else []


def _rows_at(path: str, url: str) -> Iterator[Unparsed]:
    """Download the file at hf://datasets/path@commit/name and return its rows; their places name the file there."""
    from huggingface_hub import hf_hub_download

    commit, _, name = url.removeprefix(f"hf://datasets/{path}@").partition("/")
    file = Path(hf_hub_download(path, name, revision=commit, repo_type="dataset"))
    return ((f"{path}/{name}{place.removeprefix(str(file))}", row) for place, row in unparsed_rows(file))
