"""An unpickler that imports and calls nothing. It makes plain data, and inert records of all other objects."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

from serve_app.models.checkpoint.failures import Unaccepted
from serve_app.models.checkpoint.pickle_classes import CLASSES, IGNORED_CALLS, KNOWN, STORAGES

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {"BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1", "SHORT_BINSTRING"}
_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """The name of a class or a function in the file."""

    full: str  # such as torch.nn.modules.conv.Conv2d


@dataclass(eq=False)
class Inert:
    """A record of an object in the file.

    ``name`` is the name of the object's class, or of the function that returned the object.
    """

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Storage:
    """A record of a tensor's storage, which is a file in the archive. It has not been checked or read."""

    key: Any
    dtype: str
    length: Any


@dataclass(eq=False)
class Tensor:
    """A record of a tensor: its storage, and its offset, shape and strides. These values have not been checked."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


class Unpickler:
    """Read one pickle. ``needs`` then lists the names in the pickle that a YOLO checkpoint does not need.

    The instructions are those that ``torch.save`` writes, as in PyTorch's own ``weights_only`` unpickler. Python's
    ``pickletools`` decodes them. Any other instruction, and any damage, raises an exception.
    """

    def __init__(self) -> None:
        self.needs: dict[str, None] = {}  # a dict, because it keeps the order
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[Any, Any] = {}

    def load(self, data: bytes) -> Any:
        """Return the object in ``data``. An object that the file should not have becomes an ``Inert``."""
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name == "STOP":
                return self._stack.pop()
            self._execute(instruction.name, argument)
        raise ValueError("the pickle has no end")

    def _execute(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        match instruction:
            case "PROTO":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(self._name(argument.replace(" ", ".")))
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                self._outer.append(stack)
                self._stack = []
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(tuple(items))
            case "APPEND":
                item = stack.pop()
                _expect(stack[-1], list).append(item)
            case "APPENDS":
                items = self._pop_to_mark()
                _expect(self._stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _expect(stack[-1], dict)[_key(key)] = value
            case "SETITEMS":
                items = self._pop_to_mark()
                _expect(self._stack[-1], dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "NEWOBJ":
                arguments, cls = stack.pop(), stack.pop()
                stack.append(self._call(_expect(cls, Name).full, _expect(arguments, tuple)))
            case "REDUCE":
                arguments, function = _expect(stack.pop(), tuple), stack.pop()
                stack.append(self._call(_expect(function, Name).full, arguments))
            case "BUILD":
                state = stack.pop()
                self._set_state(stack[-1], state)
            case _ if instruction in _CONSTANTS:
                stack.append(_CONSTANTS[instruction])
            case _ if instruction in _VALUES:
                stack.append(argument)
            case _ if instruction in _LENGTHS:
                length = _LENGTHS[instruction]
                items = [stack.pop() for _ in range(length)]
                stack.append(tuple(reversed(items)))
            case _:
                raise Unaccepted(
                    f"has the pickle instruction {instruction}, which torch.save does not write by default"
                )

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _name(self, full: str) -> Name:
        if full not in KNOWN:
            self.needs[full] = None
        return Name(full)

    def _call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """Return the result of one of the few calls that make plain data.

        For any other call, return an ``Inert`` without making the call. An object of a listed class is created without
        arguments, and then gets its state.
        """
        match function:
            case "torch._utils._rebuild_tensor_v2":
                return Tensor(*arguments[:4])
            case "torch._utils._rebuild_parameter":
                return arguments[0]
            case "collections.OrderedDict":
                return {_key(key): value for pairs in arguments for key, value in _expect(pairs, list)}
            case "__builtin__.set" | "builtins.set":
                return {_key(item) for items in arguments for item in _expect(items, list)}
            case "torch.Size":
                return tuple(*arguments)
        is_creation = function in CLASSES and not arguments
        if function in KNOWN and function not in IGNORED_CALLS and not is_creation:
            self.needs[f"a call of {function}"] = None
        return Inert(function)

    def _set_state(self, target: Any, state: Any) -> None:
        """Keep the state of an ``Inert`` as data. Do not apply the state of anything else."""
        if isinstance(target, Name):
            self.needs[f"a change of {target.full}"] = None
        elif isinstance(target, Inert) and isinstance(state, dict):
            target.state |= state


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value


def _key(value: Any) -> Any:
    """Return a key of a dictionary. Refuse tuples, because the hash of a deeply nested tuple overflows the stack."""
    if isinstance(value, tuple):
        raise TypeError("no checkpoint has tuples as keys")
    return value


def _storage(identity: Any) -> Storage:
    kind, storage, key, _, length = _expect(identity, tuple)
    if kind != "storage":
        raise ValueError("only storages have a persistent id")
    return Storage(key, STORAGES.get(_expect(storage, Name).full, ""), length)
