"""How numba compiles the kernel: its functions apart, their machine code together.

numba turns every function into machine code of its own, and again as a part of each of
its callers. Of the kernel only the function that Python calls is ever run, so most of
that work is thrown away. Here a function that others call ends as LLVM code (a `Part`).
The function that Python calls (a `Whole`) links every part it reaches once; LLVM then
optimises them together, and there is one piece of machine code.

A function that not every run needs is left out of the lean kernel (`WorldHandle`): its
body is then `raise LeftOutError`, so nothing that only it calls is compiled either.

These classes stand on inner parts of numba (its code library, two of its passes). Where
a numba has other ones the kernel is compiled without them (`numba_compilers`).
"""

import ctypes
import gc
import logging
from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core import (
    codegen,
    compiler,
    compiler_machinery,
    ir,
    typed_passes,
    types,
    untyped_passes,
)

from planner.simulator.launch import LeftOutError

logger = logging.getLogger(__name__)

_compiler: Any = compiler
_dynamic: Any = _dynfunc
_ir: Any = ir
_register: Any = compiler_machinery.register_pass
_Library: Any = codegen.JITCodeLibrary
_NativeLowering: Any = typed_passes.NativeLowering
_Pass: Any = compiler_machinery.FunctionPass

_TYPES: dict[Any, Any] = {
    bool: types.boolean,
    float: types.float64,
    int: types.int64,
    None: types.none,
}
"""Types of what kernel functions are annotated to return."""


class _Code(_Library):  # type: ignore[misc]
    """LLVM code of a function, and what it calls."""

    @property
    def module(self) -> Any:
        """Its own code."""
        return self._final_module

    def reached(self) -> tuple[list[Any], list[Any]]:
        """Parts it calls, itself or through others; and all other libraries."""
        seen = {self}
        todo = [self]
        parts, others = [], []
        while todo:
            for each in todo.pop()._linking_libraries:  # noqa: SLF001 (of its own kind)
                if each in seen:
                    continue
                seen.add(each)
                if isinstance(each, Part):
                    parts.append(each)
                    todo.append(each)
                else:
                    others.append(each)
        return parts, others


class Part(_Code):
    """LLVM code of one function, which only others of the kernel call."""

    def finalize(self) -> None:
        """Nothing: whoever links the code optimises it."""
        self._finalized = True


class Whole(_Code):
    """Code of a function that Python calls, with all parts that it reaches."""

    def finalize(self) -> None:
        """Link each part once, as this library's own; then optimise them together."""
        parts, self._linking_libraries = self.reached()
        names = set()
        for part in parts:
            names |= {function.name for function in part.get_defined_functions()}
            self.module.link_in(part.module, preserve=True)
        for name in sorted(names):
            self.module.get_function(name).linkage = "internal"
        super().finalize()


@ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def _no_code(_self: int, _args: int, _kwargs: int) -> None:
    """What Python finds in place of a part's machine code: a `SystemError`."""


@_register(mutates_CFG=True, analysis_only=False)
class _LowerPart(_NativeLowering):  # type: ignore[misc]
    """Lower a function to LLVM code, and register it for its callers."""

    _name = "phaseplan_lower_part"

    def run_pass(self, state: Any) -> bool:
        state.library = Part(state.targetctx.codegen(), state.func_id.func_qualname)
        super().run_pass(state)
        lowered = state["cr"]
        entry = _dynamic.make_function(
            lowered.fndesc.lookup_module(),
            lowered.fndesc.qualname.split(".")[-1],
            "part of a kernel",
            ctypes.cast(_no_code, ctypes.c_void_p).value,
            lowered.env,
            (state.library,),
        )
        state.targetctx.insert_user_function(entry, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry)
        return True


@_register(mutates_CFG=True, analysis_only=False)
class _LowerWhole(_NativeLowering):  # type: ignore[misc]
    """Lower a function, to machine code with all parts that it reaches."""

    _name = "phaseplan_lower_whole"

    def run_pass(self, state: Any) -> bool:
        state.library = Whole(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


@_register(mutates_CFG=True, analysis_only=False)
class _LowerLeftOut(_LowerPart):
    """The same for a body that only raises: its type of result is the annotated one."""

    _name = "phaseplan_lower_left_out"

    def run_pass(self, state: Any) -> bool:
        state.return_type = _TYPES[state.func_id.func.__annotations__["return"]]
        return super().run_pass(state)


@_register(mutates_CFG=True, analysis_only=False)
class _LeaveOut(_Pass):  # type: ignore[misc]
    """Put `raise LeftOutError` in place of the body of a function."""

    _name = "phaseplan_leave_out"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        where = state.func_ir.loc
        block = _ir.Block(_ir.Scope(None, where), where)
        block.append(_ir.StaticRaise(LeftOutError, None, where))
        state.func_ir.blocks = {0: block}
        return True


class _Flags(_compiler.Flags):  # type: ignore[misc]
    """Options that are equal only to themselves: numba looks them up all the time."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def copy(self) -> "_Flags":
        """Nobody changes them."""
        return self


_FLAGS: dict[str, _Flags] = {}


class _KernelCompiler(_compiler.CompilerBase):  # type: ignore[misc]
    """numba's passes, with another end."""

    lowering: Any
    is_part: bool

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        args, return_type, flags, names = rest
        flags.no_compile = self.is_part
        shared = _FLAGS.setdefault(flags.summary(), _Flags(flags))
        super().__init__(typing, target, library, args, return_type, shared, names)

    def define_pipelines(self) -> list[Any]:
        """The passes of a function without Python objects."""
        manager = _compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (self.lowering if each is _NativeLowering else each, name)
            for each, name in manager.passes
        ]
        manager.finalize()
        return [manager]


class PartCompiler(_KernelCompiler):
    """Compiles a function that only others of the kernel call."""

    lowering = _LowerPart
    is_part = True


class OptionalCompiler(_KernelCompiler):
    """The same, for a function that is left out of a lean kernel."""

    is_part = True

    def define_pipelines(self) -> list[Any]:
        """The usual passes, on another body where it is left out."""
        is_left_out = any(getattr(each, "is_lean", False) for each in self.state.args)
        self.lowering = _LowerLeftOut if is_left_out else _LowerPart
        (manager,) = super().define_pipelines()
        if is_left_out:
            manager.add_pass_after(_LeaveOut, untyped_passes.TranslateByteCode)
            manager.finalize()
        return [manager]


class WholeCompiler(_KernelCompiler):
    """Compiles a function that Python calls."""

    lowering = _LowerWhole
    is_part = False

    def compile_extra(self, function: Any) -> Any:
        """Say so: it takes some seconds, once on a machine.

        Looking for garbage in all that numba holds meanwhile took 9 % of the time.
        """
        logger.info("compiling %s (once, it is kept)", function.__module__)
        was_collecting = gc.isenabled()
        gc.disable()
        try:
            return super().compile_extra(function)
        finally:
            if was_collecting:
                gc.enable()
