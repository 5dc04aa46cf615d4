import pytest

from align_jax.training.loop import train
from align_jax.training.profiling import Steps


def test_window_of_steps_is_recorded(experiment, tmp_path):
    train(experiment, tmp_path, stop_at=4, profile=Steps(2, 3))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("text", ["", "5", "5:", "7:6", "0:3", "a:b", "-1:2"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="is no range of steps; use FIRST:LAST, such as 100:105"):
        Steps.parse(text)


def test_range_includes_both_ends():
    assert Steps.parse("100:105") == Steps(100, 105)
