import sys

import pytest

from tests.end_to_end.embed_survival import kill_at, survive


def test_embedding_that_is_killed_continues_with_the_same_bytes():
    assert survive(images=320, kill=2, shard_size=32, seed=3) == 2


def test_only_kills_of_a_command_at_work_count(tmp_path):
    assert kill_at([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, 0, 0.0)
    assert not kill_at([sys.executable, "-c", ""], tmp_path, 1, 0.0)
    with pytest.raises(RuntimeError, match="ended with status 3 before it was killed"):
        kill_at([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, 1, 0.0)
