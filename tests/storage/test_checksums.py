"""Sealed folders: corruption is detected, and the newest intact folder is used."""

from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.storage.checksums import DIGESTS, fault, newest_whole, resumable, seal


def sealed(folder: Path, number: int) -> Path:
    place = folder / f"checkpoint-{number}"
    (place / "deep").mkdir(parents=True)
    (place / "weights").write_bytes(bytes(range(256)) * 40)
    (place / "deep" / "state.json").write_text("{}")
    seal(place)
    return place


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_any_change_to_any_file_is_detected(tmp_path: Path) -> None:
    for number, name in enumerate(("weights", "deep/state.json")):
        place = sealed(tmp_path, number)
        assert fault(place) is None
        flip_a_bit(place / name)
        assert fault(place) == f"{name} does not match its checksum"
        (place / name).unlink()
        assert fault(place) == f"{name} is missing"
    for number, damage in enumerate((Path.unlink, lambda path: path.write_text('{"weights"'), flip_a_bit), 10):
        place = sealed(tmp_path, number)
        damage(place / DIGESTS)
        assert fault(place) is not None


@pytest.mark.parametrize("length", [0, 1, 5000])
def test_a_truncated_file_is_detected(tmp_path: Path, length: int) -> None:
    place = sealed(tmp_path, 1)
    (place / "weights").write_bytes((place / "weights").read_bytes()[:length])
    assert fault(place) == "weights does not match its checksum"


def test_the_newest_by_number_is_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [sealed(tmp_path, number) for number in (9, 10, 2)]
    assert newest_whole(folders, "sft") == tmp_path / "checkpoint-10"
    assert newest_whole([], "sft") is None
    assert capsys.readouterr().out == ""


def test_a_corrupted_checkpoint_is_skipped_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [sealed(tmp_path, number) for number in (1, 2, 3)]
    for folder in folders[1:]:
        flip_a_bit(folder / "weights")
    assert newest_whole(folders, "sft") == folders[0]
    assert capsys.readouterr().out.splitlines() == [
        "sft: checkpoint-3 is corrupted (weights does not match its checksum), so checkpoint-1 is used",
        "sft: checkpoint-2 is corrupted (weights does not match its checksum), so checkpoint-1 is used",
    ]


def test_without_an_intact_checkpoint_the_user_decides(tmp_path: Path) -> None:
    folders = [sealed(tmp_path, number) for number in (1, 2)]
    for folder in folders:
        (folder / "weights").unlink()
    with pytest.raises(
        RunError, match=r"is intact \(checkpoint-2: weights is missing, checkpoint-1: .*overwrite=true instead of"
    ):
        newest_whole(folders, "sft")


def test_an_unsealed_folder_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = sealed(tmp_path, 1)
    (tmp_path / "checkpoint-2").mkdir()
    assert resumable(tmp_path, "checkpoint-*", "sft") == [first]
    assert capsys.readouterr().out == "sft: checkpoint-2 is incomplete and is skipped\n"
    (first / DIGESTS).unlink()
    assert resumable(tmp_path, "checkpoint-*", "sft") == []
    assert "so it starts from the beginning" in capsys.readouterr().out


def test_sealing_again_covers_the_current_files(tmp_path: Path) -> None:
    place = sealed(tmp_path, 1)
    flip_a_bit(place / "weights")
    seal(place)
    assert fault(place) is None
