from rlhf.modeling.seeding import derive, permutation


def test_seeds_are_derived_alike_in_every_process() -> None:
    """The first 63 bits of sha256("(7, 'rollout', 3, 0)"); Python's own hash of a text differs between processes."""
    assert derive(7, "rollout", 3, 0) == 7336313539789760384
    seeds = {derive(seed, what, n) for seed in range(3) for what in ("rollout", "prompts") for n in range(5)}
    assert len(seeds) == 30
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_permutation_depends_only_on_its_purpose() -> None:
    first = permutation(50, 7, "prompts", 3).tolist()
    permutation.cache_clear()
    assert permutation(50, 7, "prompts", 3).tolist() == first
    assert sorted(first) == list(range(50))
    others = [permutation(50, *parts).tolist() for parts in ((8, "prompts", 3), (7, "prompts", 4), (7, "other", 3))]
    assert first not in others
