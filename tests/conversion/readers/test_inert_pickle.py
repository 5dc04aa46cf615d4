"""The pickle reader: what it reads, and that it runs nothing."""

import collections
import contextlib
import io
import pickle
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_jax.conversion.readers.inert_pickle import (
    MalformedPickleError,
    RefusedNamesError,
    StandIn,
    read_pickle,
)

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.integers(-(2**32) + 1, 2**32 - 1)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | KEYS, inner),
    max_leaves=20,
)


def read(pickled: bytes, known=None):
    def no_persistent(_):
        raise ValueError("nothing is outside")

    return read_pickle(io.BytesIO(pickled), known or OLD_BYTES, no_persistent)


OLD_BYTES = {  # how protocols below 3 write bytes
    "_codecs.encode": StandIn(lambda arguments: arguments[0].encode(arguments[1])),
    "__builtin__.bytes": StandIn(lambda arguments: b""),
}


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(1, 5))
def test_data_read_as_pickle_reads_them(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_text_protocol_and_shared_parts(protocol):
    shared = ["x", 1.5, 12345678901234567890, True, None]
    value = {"a": shared, "b": (shared, (), (1,), (1, 2, 3, 4)), "c": [shared]}
    found = read(pickle.dumps(value, protocol))
    assert found == value
    assert found["a"] is found["c"][0]


def test_python_2_dictionaries_are_lists_of_pairs():
    pickled = b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01(]q\x02(U\x01aK\x01e]q\x03(U\x01bK\x02ee\x85q\x04Rq\x05."
    assert read(pickled) == pickle.loads(pickled) == {"a": 1, "b": 2}


def test_attributes_of_a_dictionary_are_left_out():
    value = collections.OrderedDict(weight=1)
    value._metadata = {"version": 1}
    assert read(pickle.dumps(value)) == {"weight": 1}


def test_sets_become_lists():
    assert read(pickle.dumps({"s": {1}, "f": frozenset([2])}, 4)) == {"s": [1], "f": [2]}
    assert read(pickle.dumps({"s": {1}}, 4)) == {"s": [1]}


def test_keys_that_are_no_names_keep_their_values():
    assert list(read(pickle.dumps({(1, 2): "x", 10**20: "y", "z": 3})).values()) == ["x", "y", 3]


def test_the_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps([2]) + b"rest")
    assert [read_pickle(stream, {}, str) for _ in range(2)] == [[1], [2]]
    assert stream.read() == b"rest"


# Every way in which a pickle can call what it names, each with the names; os.mkdir leaves a trace.
HOSTILE = {
    "REDUCE after GLOBAL": (b"cos\nmkdir\n(VPATH\ntR.", ["os.mkdir"]),
    "REDUCE after STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x04PATH\x85R.", ["os.mkdir"]),
    "INST": (b"(VPATH\nios\nmkdir\n.", ["os.mkdir"]),
    "INST with an old string": (b"(S'PATH'\nios\nmkdir\n.", ["os.mkdir"]),
    "OBJ": (b"(cos\nmkdir\nVPATH\no.", ["os.mkdir"]),
    "NEWOBJ": (b"\x80\x02ccollections\nUserDict\n)\x81cos\nmkdir\nVPATH\n\x85R.", ["collections.UserDict", "os.mkdir"]),
    "NEWOBJ_EX": (
        b"\x80\x04cfunctools\npartial\ncos\nmkdir\nVPATH\n\x86}\x92)R.",
        ["functools.partial", "os.mkdir"],
    ),
    "BUILD": (
        b"cfunctools\npartial\n(cbuiltins\nprint\ntR(cos\nmkdir\n(VPATH\nt}Ntb)R.",
        ["functools.partial", "builtins.print", "os.mkdir"],
    ),
    "nested in data": (b"}Va\n](cos\nmkdir\n(VPATH\ntRcbuiltins\nlen\nes.", ["os.mkdir", "builtins.len"]),
    "dotted": (
        b"\x80\x04\x8c\x02os\x8c\x08path.abs\x93\x8c\x02os\x8c\x05mkdir\x93\x8c\x04PATH\x85R.",
        ["os.path.abs", "os.mkdir"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("program", "names"), HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_called_and_all_names_are_told(tmp_path, program, names):
    target = tmp_path / "made"

    def aimed(path: str) -> bytes:
        for count in (b"\x8c\x04PATH", b"PATH"):
            replaced = b"\x8c" + bytes([len(path)]) + path.encode() if count[0] == 0x8C else path.encode()
            if count in program:
                return program.replace(count, replaced)
        raise AssertionError

    with pytest.raises(RefusedNamesError) as caught:
        read(aimed(str(target)))
    assert list(caught.value.names) == names
    assert not target.exists()
    if "os.path.abs" not in names:  # that one does not exist; the others are as dangerous as they look
        pickle.loads(aimed(str(target)))
        assert target.is_dir()


def test_known_names_are_called_with_the_arguments():
    class Point:
        def __reduce__(self):
            return complex, (1, 2)

    assert read(pickle.dumps([Point()]), {"builtins.complex": StandIn(list)}) == [[1, 2]]


def test_what_is_made_with_a_refused_name_is_refused_and_the_rest_is_still_read():
    program = (
        b"](cos\nmkdir\ncos\nmkdir\nK\x01aK\x01K\x02sccollections\nOrderedDict\n(cos\nrmdir\ntR}cbuiltins\nlen\nbe."
    )
    with pytest.raises(RefusedNamesError) as caught:
        read(program)
    assert caught.value.names == ("os.mkdir", "os.rmdir", "builtins.len")


def test_a_mark_is_popped_like_a_value():
    assert read(b"K\x01(0.") == 1


def test_messages_stay_short():
    with pytest.raises(MalformedPickleError) as caught:
        read(b"I" + b"x" * 10_000 + b"\n.")
    assert len(str(caught.value)) < 200


def test_extension_codes_are_refused():
    with pytest.raises(RefusedNamesError) as caught:
        read(b"\x82\x07.")
    assert caught.value.names == ("copyreg extension 7",)


MALFORMED = {
    "it ends before": b"(",
    "b'\\x00' is no instruction": b"\x00.",
    "'NEXT_BUFFER' is no instruction": b"\x97.",
    "takes what is not there": b".",
    "takes what is not there ": b"t.",
    "takes what is not there  ": b"h\x05.",
    "takes what is not there   ": b"K\x01\x86.",
    "remembers something at no place": b"Np-1\n.",
    "remembers something at no place ": b"Np4294967296\n.",
    "calls something that is no function": b"K\x01)R.",
    "calls something that is no function ": b"\x80\x04ccollections\nOrderedDict\n)}K\x01K\x01s\x92.",
    "with 17 arguments": b"ccollections\nOrderedDict\n(" + b"N" * 17 + b"tR.",
    "something else than pairs": b"ccollections\nOrderedDict\nK\x01\x85R.",
    "something else than pairs ": b"ccollections\nOrderedDict\n](K\x01K\x02e\x85R.",
    "to something that is no list": b"}K\x01a.",
    "of something that is no dictionary": b"]K\x01K\x02s.",
    "attributes of something": b"]}b.",
    "something that is no name": b"\x80\x04K\x01K\x02\x93.",
    "two values to one key": b"}(K\x01K\x02K\x01K\x03u.",
    "two values to one key ": b"}K\x01K\x02sK\x01K\x03s.",
    "nothing is outside": b"K\x01Q.",
}


@pytest.mark.parametrize(("problem", "program"), MALFORMED.items(), ids=MALFORMED)
def test_nonsense_is_an_error(problem, program):
    with pytest.raises(MalformedPickleError, match=problem.strip().replace("\\", r"\\")):
        read(program)


GREEDY = {
    "a claimed length": b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "a claimed array": b"\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "a distant place in memory": b"Nr\xff\xff\xff\xffR.",
    "a long number": b"L" + b"9" * 100_000 + b"L\n.",
    "a list of pairs, copied again and again": (
        b"ccollections\nOrderedDict\n](" + b"".join(b"M" + struct.pack("<H", i) + b"K\x01\x86" for i in range(20_000))
        + b"e\x85q\x01](" + b"ccollections\nOrderedDict\nh\x01R" * 20_000 + b"e."
    ),
    "one long tuple, passed again and again": (
        b"(" + b"N" * 100_000 + b"tq\x010](" + b"ccollections\nOrderedDict\nh\x01R" * 20_000 + b"e."
    ),
    "a deep tuple as a key": b"}(" + b")" + b"\x85" * 200_000 + b"K\x01u0" + b"ccollections\nOrderedDict\nN\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("program", GREEDY.values(), ids=GREEDY)
def test_a_small_pickle_takes_little_memory(program):
    tracemalloc.start()
    try:
        with pytest.raises(MalformedPickleError):
            read(program)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(program) + (1 << 20)
    finally:
        tracemalloc.stop()


GOOD = pickle.dumps({"a": collections.OrderedDict(b=[1, 2.5, "x"]), "c": (None, True, b"y", 10**30)}, 4)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.binary(max_size=4))
def test_random_damage_gives_data_or_one_of_two_errors(start, removed, inserted):
    with contextlib.suppress(MalformedPickleError, RefusedNamesError):
        read(GOOD[:start] + inserted + GOOD[start + removed :])
