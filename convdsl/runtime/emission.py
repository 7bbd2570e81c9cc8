"""Compiles rendered kernels by Numba, to machine code that needs no Numba to run."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import compiler, registry, typed_passes, untyped_passes
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.cpu_options import FastMathOptions

from convdsl.runtime.compilation import uncollected
from convdsl.runtime.native import SIGNATURE
from convdsl.runtime.objects import ENTRY

PASSES = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.ReconstructSSA,
    typed_passes.NopythonTypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.IRLegalization,
    typed_passes.AnnotateTypes,
    typed_passes.NativeLowering,
    typed_passes.NoPythonBackend,
)
"""Numba's passes that kernels need. The others are for closures, exceptions, branches on constants
and the like: they walk over every statement and change none, and the machine code is the same."""


class _Pipeline(compiler.CompilerBase):  # type: ignore[misc]
    """Numba's compiler with those passes alone."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("kernel")
        for step in PASSES:
            passes.add_pass(step, step.__name__)
        passes.finalize()
        return [passes]


class Emission:
    """A function compiled for the signature of kernels; see `native.SIGNATURE`.

    ``fast`` are the floating-point liberties that it may take: LLVM's fast-math flags. Raises
    Numba's errors where the function is not one that Numba can compile.
    """

    def __init__(self, function: Any, fast: tuple[str, ...] = ()) -> None:
        flags = compiler.Flags()
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True  # before it has its entry
        flags.error_model = "numpy"
        flags.fastmath = FastMathOptions(set(fast))
        target = registry.cpu_target
        with global_compiler_lock, uncollected():
            result = compiler.compile_extra(
                target.typing_context,
                target.target_context,
                function,
                SIGNATURE.args,
                SIGNATURE.return_type,
                flags,
                {},
                pipeline_class=_Pipeline,
            )
            if result.typing_error is not None:
                raise result.typing_error
            self._library = result.library
            self._library.add_ir_module(_entry(result))
            self._library.finalize()

    def object(self) -> bytes:
        """The relocatable object, whose function is `objects.ENTRY`."""
        code: bytes = self._library._get_compiled_object()
        return code

    def llvm(self) -> str:
        """LLVM's intermediate code, optimised."""
        text: str = self._library.get_llvm_str()
        return text

    def assembly(self) -> str:
        """The processor's assembly."""
        text: str = self._library.get_asm_str()
        return text


def _entry(result: Any) -> Any:
    """A module with the function that is called from outside.

    Numba's own would report exceptions to Python; kernels raise none.
    """
    context, signature = result.target_context, result.signature
    module = result.library.create_ir_module(ENTRY)
    arguments = [context.get_value_type(kind) for kind in signature.args]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), ENTRY)
    builder = ir.IRBuilder(function.append_basic_block())
    inner = context.declare_function(module, result.fndesc)
    context.call_conv.call_function(
        builder, inner, signature.return_type, signature.args, function.args
    )
    builder.ret_void()
    return module
