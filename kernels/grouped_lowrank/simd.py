"""Memory access by address, and vectors of eight float32, inside numba loops.

numba counts references to arrays with atomic operations at every call, which doubled the time of
`moe_ffn`. So addresses are passed as integers. The caller of a loop keeps the memory alive. Offsets
count numbers, not bytes, and bounds are not checked.

Vectors are LLVM's portable ones; on a machine without AVX2 the compiler splits them.
"""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, register_model

LANES = 8
_FLOAT, _INT64 = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_NUMBER = {_FLOAT: _FLOAT, _INT64: _INT64, _VECTOR: _FLOAT}  # the unit of an offset


class Vector(types.Type):
    """numba's type of a vector."""

    def __init__(self) -> None:
        super().__init__("float32x8")


vector = Vector()


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


def _pointer(builder: Any, kind: Any, address: Any, offset: Any) -> Any:
    numbers = builder.inttoptr(address, _NUMBER[kind].as_pointer())
    return builder.bitcast(builder.gep(numbers, [offset]), kind.as_pointer())


def _define(result: Any, accepts: Sequence[Any], emit: Callable[..., Any]) -> Any:
    """Make a numba function of these types; `emit` writes its LLVM code."""

    def typed(_typing: Any, *_given: Any) -> Any:
        return result(*accepts), emit

    # numba inspects the signature and rejects a star in it.
    names = ("typing", *"abc"[: len(accepts)])
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    typed.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(typed)


def _loader(kind: Any, result: Any) -> Any:
    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        value = builder.load(_pointer(builder, kind, *args))
        value.align = 4
        return value

    return _define(result, [types.intp, types.intp], emit)


def _storer(kind: Any, given: Any) -> Any:
    def emit(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(builder, kind, *args[:2])).align = 4
        return context.get_dummy_value()

    return _define(types.void, [types.intp, types.intp, given], emit)


def _emit_splat(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(nothing, args[0], ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_INTEGERS, [0] * LANES))


def _function(count: int, emit: Callable[..., Any]) -> Any:
    """Make a numba function of `count` vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return emit(builder, *args)

    return _define(vector, [vector] * count, generate)


def _emit_sum(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
    """Add up the eight numbers by halves."""
    parts = [builder.extract_element(args[0], ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [builder.fadd(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


def _emit_fma(builder: Any, *args: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, kind, f"llvm.fma.v{LANES}f32"
    )
    return builder.call(function, args)


def _emit_power(builder: Any, value: Any, shifted: Any) -> Any:
    """`value` * 2^k; `shifted` is k + 1.5 * 2^23, so k is in its low bits."""
    bits, power = (builder.bitcast(v, _INTEGERS) for v in (value, shifted))
    power = builder.shl(power, ir.Constant(_INTEGERS, [23] * LANES))
    return builder.bitcast(builder.add(bits, power), _VECTOR)


def _emit_clamp(builder: Any, value: Any, low: Any, high: Any) -> Any:
    """Clamp to `low`..`high`; NaN stays NaN."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


sum_of = _define(types.float32, [vector], _emit_sum)
load = _loader(_VECTOR, vector)  # (address, offset)
store = _storer(_VECTOR, vector)  # (address, offset, vector)
get = _loader(_FLOAT, types.float32)
put = _storer(_FLOAT, types.float32)
get_int = _loader(_INT64, types.int64)
splat = _define(vector, [types.float32], _emit_splat)  # one number in all eight lanes
add = _function(2, lambda builder, a, b: builder.fadd(a, b))
sub = _function(2, lambda builder, a, b: builder.fsub(a, b))
mul = _function(2, lambda builder, a, b: builder.fmul(a, b))
div = _function(2, lambda builder, a, b: builder.fdiv(a, b))
clamp = _function(3, _emit_clamp)
fma = _function(3, _emit_fma)  # a * b + c, rounded once
fms = _function(3, lambda builder, a, b, c: _emit_fma(builder, a, b, builder.fneg(c)))
times_power_of_two = _function(2, _emit_power)
