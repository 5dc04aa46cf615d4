"""Reading communication from HLO text; the lines are from the TPU and the CPU compiler."""

from align_jax.training.planning.collectives import Collective, Traffic, collectives, traffic_by_kind

HLO = """
  %all-gather.1 = f32[16384,640]{1,0:T(8,128)} all-gather(%fusion.4), channel_id=1, replica_groups={{0,1},{2,3}}
  %all-reduce.3 = (bf16[768,3072]{1,0:T(8,128)(2,1)}, /*index=1*/f32[]{:T(128)}) all-reduce(%a, %b), channel_id=3
  %get-tuple-element.30 = f32[]{:T(128)} get-tuple-element(%all-reduce.3), index=1
  ROOT %reduce-scatter.2 = f32[8,16]{1,0} reduce-scatter(%c), channel_id=4, replica_groups=[1,4]<=[4], dimensions={0}
  %all-gather-start = (f32[8,640]{1,0}, f32[32,640]{1,0}) all-gather-start(%d), channel_id=5
  %all-gather-done = f32[32,640]{1,0} all-gather-done(%all-gather-start)
  %collective-permute-start.1 = (s8[4,2]{1,0}, s8[4,2]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%e)
  %fusion.9 = f32[8,640]{1,0} fusion(%all-gather.1, %all-reduce.3), kind=kLoop, calls=%fused_computation
"""


def test_each_collective_with_its_arrays_and_bytes():
    assert collectives(HLO) == [
        Collective("all-gather", 1, 4 * 16384 * 640),
        Collective("all-reduce", 2, 2 * 768 * 3072 + 4),
        Collective("reduce-scatter", 1, 4 * 4 * 8 * 16),  # whole: four devices' parts
        Collective("all-gather", 1, 4 * 32 * 640),  # the result, without the operand
        Collective("collective-permute", 1, 8),  # without its flags
    ]


def test_sums_by_kind():
    assert traffic_by_kind(collectives(HLO))["all-gather"] == Traffic(2, 2, 4 * (16384 + 32) * 640)
    assert traffic_by_kind([]) == {}


def test_group_size_from_explicit_groups():
    line = "%r = f32[8]{0} reduce-scatter(%c), replica_groups={{0,1,2},{3,4,5}}, dimensions={0}"
    assert collectives(line) == [Collective("reduce-scatter", 1, 3 * 8 * 4)]
