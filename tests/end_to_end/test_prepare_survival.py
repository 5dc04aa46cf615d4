from tests.end_to_end.prepare_survival import survive


def test_preparation_that_is_killed_continues_with_the_same_bytes():
    survive(images=600, kill=2, per_shard=100, layout="webdataset", seed=3)
