from tests.end_to_end.embed_survival import survive


def test_embedding_that_is_killed_continues_with_the_same_bytes():
    assert survive(images=320, kill=2, shard_size=32, seed=3) == 2
