from align_jax.training.hardware import CHIPS, peak_flops_per_second


def test_a_v3_device_is_one_of_two_cores():
    assert peak_flops_per_second("TPU v3") == 61.5e12


def test_a_v5e_device_is_a_chip():
    assert peak_flops_per_second("TPU v5 lite") == 197e12


def test_what_is_not_known_is_none_and_not_a_guess():
    assert peak_flops_per_second("cpu") is None


def test_the_table_is_in_one_unit():
    assert all(40e12 < chip.flops_per_second < 3e15 for chip in CHIPS.values())
    assert all(15e9 < chip.memory_bytes < 250e9 for chip in CHIPS.values())
    assert all(2e11 < chip.memory_bytes_per_second < 1e13 for chip in CHIPS.values())
