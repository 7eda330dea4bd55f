"""WorldHandle: the arrays of a simulation behind one pointer, for numba.

A tuple of arrays is passed to a compiled function as one machine word for every pointer
and length in it, some hundred and fifty here, at every call. The kernel is made of many
small functions, so most of its time went into that. A handle is one pointer to a table
of the arrays' addresses and shapes; `w.request` in the kernel loads what it needs.
"""

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.core.typing.templates import AttributeTemplate
from numba.np import arrayobj

from planner.simulator.state import World

_extending: Any = numba.extending
_arrayobj: Any = arrayobj

_WORDS = 3
"""Words of the table for each array: its address and up to two lengths."""


class WorldHandle:
    """What the kernel is given in place of a `World`, which must outlive it.

    Its type says which kernel runs: the full one, or one without `optional` functions.
    """

    def __init__(self, world: World, *, is_lean: bool = False) -> None:
        self.world = world
        self.is_lean = is_lean
        self.table = np.zeros(_WORDS * len(world), dtype=np.int64)
        for index, array in enumerate(world):
            if not array.flags.c_contiguous:
                raise ValueError(f"{World._fields[index]} is not contiguous")
            self.table[_WORDS * index] = array.ctypes.data
            shape = slice(_WORDS * index + 1, _WORDS * index + 1 + array.ndim)
            self.table[shape] = array.shape

    @property
    def address(self) -> int:
        """Where the table is."""
        return int(self.table.ctypes.data)


class WorldType(types.Type):
    """numba's type of a handle: the same for all worlds of one kernel.

    The name is part of the name of every compiled function, and so it is short.
    """

    def __init__(self, arrays: tuple[tuple[str, Any], ...], is_lean: bool) -> None:
        self.arrays = arrays
        self.is_lean = is_lean
        super().__init__(name="Lean" if is_lean else "World")

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two types equal."""
        return self.arrays, self.is_lean


@_extending.typeof_impl.register(WorldHandle)
def _typeof(handle: WorldHandle, _context: Any) -> WorldType:
    layout = tuple((array.dtype, array.ndim) for array in handle.world)
    return _world_type(layout, handle.is_lean)


@lru_cache(maxsize=2)
def _world_type(layout: tuple[tuple[Any, int], ...], is_lean: bool) -> WorldType:
    arrays = tuple(
        (name, types.Array(numba.from_dtype(dtype), ndim, "C"))
        for name, (dtype, ndim) in zip(World._fields, layout, strict=True)
    )
    return WorldType(arrays, is_lean)


_extending.register_model(WorldType)(_extending.models.OpaqueModel)  # a bare pointer


@_extending.unbox(WorldType)
def _unbox(_type: WorldType, handle: Any, context: Any) -> Any:
    address = context.pyapi.object_getattr_string(handle, "address")
    word = context.pyapi.long_as_longlong(address)
    context.pyapi.decref(address)
    return _extending.NativeValue(context.builder.inttoptr(word, cgutils.voidptr_t))


@_extending.infer_getattr
class _WorldAttributes(AttributeTemplate):
    """`w.name` is an array."""

    key = WorldType

    def generic_resolve(self, typ: Any, attr: str) -> Any:  # type: ignore[override]
        return dict(typ.arrays).get(attr)


@_extending.lower_getattr_generic(WorldType)
def _array_of(
    context: Any, builder: Any, world: WorldType, pointer: Any, name: str
) -> Any:
    """Load address and lengths of an array; the table never changes."""
    index = [each for each, _ in world.arrays].index(name)
    kind = world.arrays[index][1]
    word = context.get_value_type(types.int64)
    table = builder.bitcast(pointer, word.as_pointer())

    def load(offset: int) -> Any:
        where = builder.gep(table, [word(_WORDS * index + offset)])
        loaded = builder.load(where)
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    array = _arrayobj.make_array(kind)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    lengths = [load(1 + axis) for axis in range(kind.ndim)]
    strides = [word(itemsize)]
    for length in reversed(lengths[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    _arrayobj.populate_array(
        array,
        data=builder.inttoptr(load(0), array.data.type),
        shape=lengths,
        strides=strides,
        itemsize=word(itemsize),
        meminfo=None,
    )
    return array._getvalue()  # noqa: SLF001 (numba's own name for it)
