from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.dedup import Seen, digest


@given(st.lists(st.text(max_size=3)))
def test_seen_behaves_like_a_set(texts: list[str]) -> None:
    seen, known = Seen(), set()
    for text in texts:
        assert seen.add(text) is (text not in known)
        known.add(text)
    assert len(seen) == len(known)


def test_seen_grows_and_takes_at_most_32_bytes_per_text() -> None:
    seen = Seen()
    assert all(seen.add(str(n)) for n in range(5_000))
    assert not any(seen.add(str(n)) for n in range(5_000))
    assert len(seen._slots) * 8 <= 32 * 5_000 + 8 * 1024


def test_no_digest_is_zero() -> None:
    assert all(digest(str(n)) > 0 for n in range(1_000))
