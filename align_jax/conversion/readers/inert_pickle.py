"""Reads a pickle as data: its program is followed, but nothing outside it is imported, called or changed.

A pickle is a program for a machine with a stack and a memory, and its danger lies in the instructions that import a
name and call it. Here a name becomes the stand-in that the caller gives for it, and to call a stand-in is to run the
caller's function. Every other name is refused; the program is followed to its end all the same, so that all of them are
known. Instructions: `pickletools` of the standard library, which also decodes their arguments.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from align_jax.conversion.readers.tensors import listing

Function = Callable[[Any], Any]


@runtime_checkable
class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...


class StandIn(NamedTuple):
    """Takes the place of a function or a class; `function` gets the tuple of a call's arguments."""

    function: Function


class MalformedPickleError(ValueError):
    """The bytes are no pickle, or one that makes no sense."""


class RefusedNamesError(ValueError):
    """A pickle uses names that nothing stands in for.

    Attributes:
        names: all of them, as `module.name`.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        super().__init__(f"{len(names)} names are refused")


def read_pickle(stream: Readable, known: Mapping[str, Any], persistent: Function) -> Any:
    """The object of one pickle; `stream` is left behind its last byte.

    Sets are given as lists. Dictionaries are plain ones, and attributes that the pickle gives them are left out.

    Args:
        stream: the pickle.
        known: what takes the place of the names it may use, by `module.name`: a `StandIn` for what it calls, any value
            for what it only mentions. `collections.OrderedDict` makes dictionaries without being listed.
        persistent: takes the identifier of an object that lies outside the pickle, and gives what stands for it.
            This function, and those of stand-ins, raise ValueError for arguments that make no sense.

    Raises:
        RefusedNamesError: if it uses other names.
        MalformedPickleError: if it cannot be followed to its end.
    """
    machine = _Machine(known, persistent)
    value = problem = None
    try:
        value = machine.run(stream)
    except ValueError as error:
        problem = listing([str(error)])  # may quote the pickle
    except (IndexError, KeyError):
        problem = "an instruction takes what is not there"
    if machine.refused:  # tells more than the problem, which may follow from it
        raise RefusedNamesError(tuple(machine.refused))
    if problem is not None:
        raise MalformedPickleError(problem)
    return value


_MOST_ARGUMENTS = 16  # of a call, so that passing one long tuple again and again costs nothing
_LARGEST_NUMBER = 2**32  # of a place in memory, and of a key: larger ones can be chosen so that all their hashes clash
_REFUSED = object()  # what every use of a refused name gives


class _Machine:
    """Stack, memory and instructions."""

    def __init__(self, known: Mapping[str, Any], persistent: Function) -> None:
        self.refused: dict[str, None] = {}  # names in order
        self._known = {"collections.OrderedDict": StandIn(self._ordered_dict), **known}
        self._persistent = persistent
        self.stack: list[Any] = []
        self._below_marks: list[list[Any]] = []
        self.memory: dict[int, Any] = {}
        self._unused_instructions = 0

    def run(self, stream: Readable) -> Any:
        """Follows one pickle to its end."""
        while True:
            code = stream.read(1)
            if not code:
                raise ValueError("it ends before its last instruction")
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None or opcode.name not in _INSTRUCTIONS:
                raise ValueError(f"{opcode.name if opcode else code!r} is no instruction of a state dict")
            self._unused_instructions += 1
            if opcode.name == "STRING":
                argument = stream.readline().decode("latin-1")  # the standard library's decoder may warn
            else:
                argument = opcode.arg and opcode.arg.reader(stream)  # pyrefly: ignore[bad-argument-type]
            if opcode.name == "STOP":
                return self.stack.pop()
            _INSTRUCTIONS[opcode.name](self, argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self._below_marks.append(self.stack)
        self.stack = []

    def pop_mark(self, _: None = None) -> list[Any]:
        items = self.stack
        self.stack = self._below_marks.pop()
        return items

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def memoize(self, place: int | None) -> None:
        place = len(self.memory) if place is None else place
        if not 0 <= place < _LARGEST_NUMBER:
            raise ValueError("it remembers something at no place")
        self.memory[place] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        if count > len(self.stack):
            raise IndexError
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(items)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif target is not _REFUSED:
            raise ValueError("it appends to something that is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            added = self.dictionary(items)
            if target.keys() & added.keys():
                raise ValueError("it gives two values to one key")
            target.update(added)
        elif target is not _REFUSED:
            raise ValueError("it sets items of something that is no dictionary")

    def build(self, _: None) -> None:
        self.stack.pop()
        if not (isinstance(self.stack[-1], dict) or self.stack[-1] is _REFUSED):
            raise ValueError("it sets attributes of something that is no dictionary")

    def name(self, module_and_name: str) -> None:
        self.push(self._find(module_and_name.replace(" ", ".", 1)))

    def name_on_stack(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("it imports something that is no name")
        self.push(self._find(f"{module}.{name}"))

    def extension(self, code: int) -> None:
        self.push(self._find(f"copyreg extension {code}"))

    def reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._call(function, arguments)

    def new_with_keywords(self, _: None) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(function, arguments if keywords == {} else None)

    def instance(self, module_and_name: str) -> None:
        arguments = self.pop_mark()
        self._call(self._find(module_and_name.replace(" ", ".", 1)), tuple(arguments))

    def object_(self, _: None) -> None:
        function, *arguments = self.pop_mark() or [None]
        self._call(function, tuple(arguments))

    def persistent(self, _: None) -> None:
        identifier = self.stack.pop()
        self.push(_REFUSED if _mentions_refused(identifier) else self._persistent(identifier))

    def _find(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        self.refused[name] = None
        return _REFUSED

    def _call(self, function: Any, arguments: Any) -> None:
        if function is _REFUSED:
            self.push(_REFUSED)
        elif not isinstance(function, StandIn) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is no function")
        else:
            self.push(_REFUSED if _mentions_refused(arguments) else function.function(arguments))

    def dictionary(self, items: list[Any]) -> dict[Any, Any]:
        keys = [key if _is_simple(key) else object() for key in items[::2]]
        dictionary = dict(zip(keys, items[1::2], strict=True))
        if len(dictionary) < len(keys):
            raise ValueError("it gives two values to one key")
        return dictionary

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Empty, or of a list of pairs, as Python 2 wrote it."""
        match arguments:
            case ():
                return {}
            case (list(pairs),):
                # Each pair took instructions to make: a short pickle cannot grow by using one list again and again.
                self._unused_instructions -= len(pairs)
                if self._unused_instructions < 0:
                    raise ValueError("it copies the same items many times")
                if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                    return self.dictionary([item for pair in pairs for item in pair])
        raise ValueError("it makes a dictionary of something else than pairs")


def _is_simple(key: Any) -> bool:
    """Whether a key can be hashed without risk; a deeply nested tuple would overflow the interpreter's stack."""
    return isinstance(key, str | bytes) or key is None or (isinstance(key, int) and abs(key) < _LARGEST_NUMBER)


def _mentions_refused(arguments: Any) -> bool:
    if not isinstance(arguments, tuple):
        return False
    if len(arguments) > _MOST_ARGUMENTS:
        raise ValueError(f"it calls something with {len(arguments)} arguments")
    return any(argument is _REFUSED for argument in arguments)


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}

# The instructions of all protocols but those for data that are kept outside the pickle.
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING"),
            *("BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
            *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _Machine.push,
    ),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "FROZENSET": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "DICT": lambda machine, _: machine.push(machine.dictionary(machine.pop_mark())),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memory[place])),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
