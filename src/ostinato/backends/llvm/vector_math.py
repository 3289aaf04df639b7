"""Mathematical functions of the native CPU backend, as LLVM IR for floats and for vectors of any width.

`call` emits a call of a function; the function itself is put into the module once for each type. The
functions are free of branches: every lane takes the same instructions and `select` picks. The exception
is sin, cos and tan, which branch to the C library if a lane is too large for their own reduction: above
2^40 in double and 2^19 in single precision.

Methods. Arguments are reduced exactly or nearly so (Cody and Waite, Software Manual for the Elementary
Functions, 1980; with fused multiply-add, of which the first product is exact), a minimax polynomial of
`vector_math_tables` approximates the function on what is left, and the leading term is added last, so that
the rounding of the polynomial hardly counts (Tang, ACM TOMS 15, 1989). Logarithms use
log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)) with s = f / (2 + f), and the inverse functions the reductions, of
FDLIBM (Ng, 1993). exp(-a^2) erfc(a) is smoothed by t = (a - k) / (a + k) (Shepherd and Laframboise, Math.
Comp. 36, 1981). pow needs the logarithm to 65 bits, which sums of two numbers hold (Dekker, Numer. Math. 18,
1971; Knuth, TAOCP 2). tanh and sinh come from expm1 (Higham, Accuracy and Stability, 2002, section 1.14).

Comparisons are ordered, so NaN falls through every `select` into the arithmetic and comes out as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from ostinato.backends.llvm.lines import Builder
from ostinato.backends.llvm.vector_math_lanes import Emitter, Float, suffix

_INTRINSICS = {"abs": "fabs", "ceil": "ceil", "floor": "floor", "round": "rint", "sqrt": "sqrt", "trunc": "trunc"}


def call(builder: Builder, name: str, *operands: ir.Value) -> ir.Value:
    """Emit a call of a function of `SUPPORTED` on operands of one type, and return its result, of that type.

    The type is float, double, or a vector of these. "round" rounds halves to even.
    """
    emitter = Emitter(builder, operands[0].type)
    if name in _INTRINSICS:
        return emitter.intrinsic(_INTRINSICS[name], *operands)
    return builder.call(_declare(builder.module, name, operands[0].type, len(operands)), operands)


def _declare(module: ir.Module, name: str, type_: ir.Type, arity: int) -> ir.Function:
    """The module's function of that name for that type; its body is made at the first use."""
    symbol = f"ostinato.{name}.{suffix(type_)}"
    if symbol in module.globals:
        return module.globals[symbol]
    body = _FUNCTIONS[name]
    function = ir.Function(module, ir.FunctionType(type_, [type_] * arity), symbol)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    builder = Builder(function.append_basic_block("entry"))
    emitter = Emitter(builder, type_)
    builder.ret(body(emitter, *[Float(emitter, a) for a in function.args]).value)
    return function


# ---- exponentials ---------------------------------------------------------------------------------


def _exp_reduced(m: Emitter, x: Float, rest: Float | None = None) -> tuple[Float, ir.Value, Float]:
    """n, the same in the low bits of an integer, and exp(r) - 1, where x + rest = n log(2) + r, |r| < 0.35."""
    shifted = m.fma(x, m.tables.log2_e[0], m.rounder)
    n = shifted - m.rounder
    r = m.fma(n, -m.tables.ln2[0], x)
    r = m.fma(n, -m.tables.ln2[1], r)
    if rest is not None:
        r = r + rest
    return n, shifted.bits(), m.mad(m.polynomial(r, m.tables.exp), r * r, r)


def _scaled(m: Emitter, p: Float, n: Float, n_bits: ir.Value) -> Float:
    """p 2^n in two steps, for n that is out of the range of exponents by a factor of up to 2."""
    half = m.mad(n, 0.5, m.rounder).bits()
    return p * m.power_of_two(half) * m.power_of_two(m.builder.sub(n_bits, half))


def _exp_of_sum(m: Emitter, x: Float, rest: Float | None = None, factor: Float | float = 1.0) -> Float:
    """factor exp(x + rest), where the rest is tiny and finite."""
    x = x.at_most(m.pick(710.0, 89.0)).at_least(m.pick(-746.0, -104.0))
    n, n_bits, p = _exp_reduced(m, x, rest)
    return _scaled(m, m.mad(p, factor, factor) if isinstance(factor, Float) else p + factor, n, n_bits)


def _exp(m: Emitter, x: Float) -> Float:
    return _exp_of_sum(m, x)


def _exp2(m: Emitter, x: Float) -> Float:
    x = x.at_most(m.pick(1025.0, 129.0)).at_least(m.pick(-1077.0, -152.0))
    shifted = x + m.rounder
    n = shifted - m.rounder
    r = (x - n) * m.tables.ln2_nearest[0]
    p = m.mad(m.polynomial(r, m.tables.exp), r * r, r)
    return _scaled(m, p + 1.0, n, shifted.bits())


def _expm1_scaled(m: Emitter, x: Float, k: int) -> tuple[Float, Float, Float]:
    """2^-k expm1(x) where 2^-k exp(x) does not overflow, with n and exp(r) - 1 of the reduction."""
    n, n_bits, p = _exp_reduced(m, x)
    scale = m.power_of_two(m.builder.sub(n_bits, m.int_const(k)) if k else n_bits)
    return m.mad(scale, p, scale - 0.5**k), n, p


def _expm1(m: Emitter, x: Float) -> Float:
    bounded = x.at_most(m.pick(710.0, 89.0)).at_least(m.pick(-45.0, -25.0))
    half, n, p = _expm1_scaled(m, bounded, 1)
    return m.where(n.equals(0.0), p, half + half).copysign(x)


def _tanh(m: Emitter, x: Float) -> Float:
    a = abs(x)
    u, _, _ = _expm1_scaled(m, (a + a).at_most(m.pick(40.0, 20.0)), 0)
    return (u / (u + 2.0)).copysign(x)


def _sigmoid(m: Emitter, x: Float) -> Float:
    e = _exp_of_sum(m, -abs(x))
    return m.where(x < 0.0, e, 1.0) / (e + 1.0)


def _sinh(m: Emitter, x: Float) -> Float:
    a = abs(x)
    quarter, _, _ = _expm1_scaled(m, a.at_most(m.pick(710.8, 89.6)), 2)
    y = 2.0 * (quarter + quarter / m.mad(quarter, 4.0, 1.0))
    return m.where(a < m.pick(2.0**-27, 2.0**-13), a, y).copysign(x)


def _cosh(m: Emitter, x: Float) -> Float:
    _, n_bits, p = _exp_reduced(m, abs(x).at_most(m.pick(710.8, 89.6)))
    quarter = (p + 1.0) * m.power_of_two(m.builder.sub(n_bits, m.int_const(2)))
    return 2.0 * (quarter + 0.0625 / quarter)


# ---- logarithms -----------------------------------------------------------------------------------


def _split_exponent(m: Emitter, x: Float, normal: bool = False) -> tuple[Float, Float]:
    """e and f where x = 2^e (1 + f) and 1 + f is from sqrt(1/2) to sqrt(2); for x that is positive and finite.

    normal: x is known not to be denormal.
    """
    b = m.builder
    zero, up = 2.0**m.mantissa + m.bias, m.mantissa + 2
    offset = m.const(zero)
    if not normal:
        tiny = x < m.smallest_normal
        x, offset = m.where(tiny, x * 2.0**up, x), m.where(tiny, zero + up, zero)
    root, one = m.bits_of(math.sqrt(0.5)), m.bias << m.mantissa
    moved = b.add(x.bits(), m.int_const(one - root))
    exponent = b.add(b.lshr(moved, m.int_const(m.mantissa)), m.int_const(m.bits_of(2.0**m.mantissa)))
    e = m.from_bits(exponent) - offset
    significand = b.add(b.and_(moved, m.int_const((1 << m.mantissa) - 1)), m.int_const(root))
    return e, m.from_bits(significand) - 1.0


def _log_significand(m: Emitter, f: Float) -> tuple[Float, Float]:
    """log(1 + f) as a sum of two numbers, of which the first has not been rounded after f^2/2."""
    s = f / (f + 2.0)
    z = s * s
    half = f * f * 0.5
    high = f - half
    return high, m.mad(s, m.mad(z, m.polynomial(z, m.tables.log), half), (f - high) - half)


def _log_at_the_ends(m: Emitter, x: Float, y: Float) -> Float:
    """The logarithm y of x, put right where x is 0, negative, infinite or NaN."""
    y = m.where(x.equals(math.inf), math.inf, y)
    y = m.where(x.equals(0.0), -math.inf, y)
    return m.where(x >= 0.0, y, math.nan)


def _log_of(m: Emitter, x: Float, change: Float | None = None, normal: bool = False) -> Float:
    """log(x) + change for positive finite x, where the change is tiny."""
    e, f = _split_exponent(m, x, normal)
    high, low = _log_significand(m, f)
    if change is not None:
        low = low + change
    return _sum(e * m.tables.ln2[0], high, m.mad(e, m.tables.ln2[1], low))


def _sum(big: Float, small: Float, tiny: Float) -> Float:
    """Rounded hardly more than once, if big is the larger or 0."""
    total = big + small
    return total + (((big - total) + small) + tiny)


def _log(m: Emitter, x: Float) -> Float:
    return _log_at_the_ends(m, x, _log_of(m, x))


def _log_to_base(m: Emitter, x: Float, unit: Sequence[float], inverse: Sequence[float]) -> Float:
    """The logarithm to the base of which 2 has the logarithm `unit` and e `inverse`, both as sums of two."""
    e, f = _split_exponent(m, x)
    high, low = _log_significand(m, f)
    product = high * inverse[0]
    rest = m.mad(low, inverse[0], m.mad(high, inverse[1], m.fma(high, inverse[0], -product)))
    return _log_at_the_ends(m, x, _sum(e * unit[0], product, m.mad(e, unit[1], rest) if unit[1] else rest))


def _log2(m: Emitter, x: Float) -> Float:
    return _log_to_base(m, x, (1.0, 0.0), m.tables.log2_e)


def _log10(m: Emitter, x: Float) -> Float:
    return _log_to_base(m, x, m.tables.log10_2, m.tables.log10_e)


def _log1p_bounded(m: Emitter, x: Float) -> tuple[Float, Float]:
    """1 + x and log1p(x), which is right if 1 + x is positive and finite. The rounding of the first is repaired."""
    u = x + 1.0
    back = u - 1.0
    lost = (1.0 - (u - back)) + (x - back)
    return u, _log_of(m, u, lost / u, normal=True)


def _log1p(m: Emitter, x: Float) -> Float:
    u, y = _log1p_bounded(m, x)
    return _log_at_the_ends(m, u, y).copysign(x)


def _logaddexp(m: Emitter, x: Float, y: Float) -> Float:
    distance = m.where(x.equals(y), 0.0, abs(x - y))  # equal infinities have no difference
    w = _exp_of_sum(m, -distance)
    q = (w + w) / (w + 2.0)
    z = q * q * 0.25
    return m.where(x > y, x, y) + m.mad(q, z * m.polynomial(z, m.tables.log1p_unit), q)


def _softplus(m: Emitter, x: Float) -> Float:
    return _logaddexp(m, m.const(0.0), x)


# ---- powers ---------------------------------------------------------------------------------------


def _exact_product(m: Emitter, x: Float, y: Float) -> tuple[Float, Float]:
    """x y as a sum of two numbers."""
    high = x * y
    return high, m.fma(x, y, -high)


def _log_exactly(m: Emitter, x: Float) -> tuple[Float, Float]:
    """log(x) to about 66 bits as a sum of two numbers, for positive finite x in double precision.

    log(1 + f) = 2 atanh(s), s = f / (2 + f); s, s^2, the first two terms of the series and their sum have two
    parts.
    """
    e, f = _split_exponent(m, x)
    d = f + 2.0
    d_low = f - (d - 2.0)
    inverse = 1.0 / d
    s = f * inverse
    s_low = m.fma(-s, d_low, m.fma(-s, d, f)) * inverse
    z, z_low = _exact_product(m, s, s)
    z_low = m.mad(s + s, s_low, z_low)
    tail = z * m.polynomial(z, m.tables.log_exact)
    c = tail + m.tables.two_thirds[0]
    c_low = (m.tables.two_thirds[0] - c) + tail + m.tables.two_thirds[1]
    w, w_low = _exact_product(m, z, c)
    w_low = m.mad(z, c_low, m.mad(z_low, c, w_low))
    t, t_low = _exact_product(m, s, w)
    t_low = m.mad(s, w_low, m.mad(s_low, w, t_low))
    first, twice = e * m.tables.ln2[0], s + s
    a = first + twice
    a_low = (first - a) + twice
    b = a + t
    b_low = (a - b) + t
    low = b_low + (a_low + (m.mad(e, m.tables.ln2[1], s_low + s_low) + t_low))
    total = b + low
    return total, (b - total) + low


def _pow_of_magnitude(m: Emitter, a: Float, y: Float) -> Float:
    """a^y = exp(y log(a)) for a that is not negative, except where 0 times infinity is met."""
    if not m.double:  # double precision has digits and exponents to spare
        wide = Emitter(m.builder, m.across(ir.DoubleType()))
        a, y = (Float(wide, m.builder.fpext(v.value, wide.type)) for v in (a, y))
        t = y * _log_at_the_ends(wide, a, _log_of(wide, a, normal=True))
        _, n_bits, p = _exp_reduced(wide, t.at_most(100.0).at_least(-120.0))
        scale = wide.power_of_two(n_bits)
        return Float(m, m.builder.fptrunc(wide.mad(scale, p, scale).value, m.type))
    high, low = _log_exactly(m, a)
    high = _log_at_the_ends(m, a, high)
    product, product_low = _exact_product(m, y, high)
    product_low = m.mad(y, low, product_low)
    return _exp_of_sum(m, product, m.where(abs(product) < 1e4, product_low, 0.0))


def _pow(m: Emitter, x: Float, y: Float) -> Float:
    """As C99 has it at the special values."""
    b = m.builder
    r = _pow_of_magnitude(m, abs(x), y)
    half = y * 0.5
    whole = y.trunc().equals(y)
    odd = b.and_(whole, half.trunc().compare("!=", half))
    r = m.where(b.and_(odd, x.has_sign()), -r, r)
    negative = b.and_(x < 0.0, x > -math.inf)
    r = m.where(b.and_(negative, b.not_(whole)), math.nan, r)
    alternating = b.and_(x.equals(-1.0), abs(y).equals(math.inf))
    return m.where(b.or_(b.or_(y.equals(0.0), x.equals(1.0)), alternating), 1.0, r)


# ---- trigonometric functions ----------------------------------------------------------------------


def _trig_kernel(m: Emitter, x: Float) -> tuple[ir.Value, Float, Float]:
    """n in the low bits, sin(r) and cos(r), where x = n pi/2 + r and |r| < 0.8."""
    shifted = m.fma(x, m.tables.two_over_pi[0], m.rounder)
    n = shifted - m.rounder
    r = x
    for part in m.tables.half_pi:
        r = m.fma(n, -part, r)
    z = r * r
    sine = m.mad(r * z, m.polynomial(z, m.tables.sin), r)
    cosine = m.mad(z * z, m.polynomial(z, m.tables.cos), m.mad(z, -0.5, 1.0))
    return shifted.bits(), sine, cosine


def _bit(m: Emitter, n: ir.Value, bit: int) -> ir.Value:
    return m.builder.icmp_unsigned("!=", m.builder.and_(n, m.int_const(bit)), m.int_const(0))


def _sin_or_cos(m: Emitter, name: str, x: Float, quarters: int) -> Float:
    """sin(x + quarters pi/2)."""
    n, sine, cosine = _trig_kernel(m, x)
    n = m.builder.add(n, m.int_const(quarters))
    y = m.where(_bit(m, n, 1), cosine, sine)
    sign = m.builder.shl(m.builder.and_(n, m.int_const(2)), m.int_const(62 if m.double else 30))
    return _unless_large(m, name, x, m.from_bits(m.builder.xor(y.bits(), sign)))


def _sin(m: Emitter, x: Float) -> Float:
    y = _sin_or_cos(m, "sin", x, 0)
    return m.where(x.equals(0.0), x, y)


def _cos(m: Emitter, x: Float) -> Float:
    return _sin_or_cos(m, "cos", x, 1)


def _tan(m: Emitter, x: Float) -> Float:
    n, sine, cosine = _trig_kernel(m, x)
    odd = _bit(m, n, 1)
    y = _unless_large(m, "tan", x, m.where(odd, -cosine, sine) / m.where(odd, sine, cosine))
    return m.where(x.equals(0.0), x, y)


def _unless_large(m: Emitter, name: str, x: Float, y: Float) -> Float:
    """y, but what the C library's function gives in the lanes where the reduction of x is not accurate."""
    large = abs(x) > m.pick(2.0**40, 2.0**19)
    before = m.builder.block
    with m.builder.if_then(m.any(large), likely=False):
        replaced = m.where(large, _lane_by_lane(m, name, x), y)
        after = m.builder.block
    result = m.builder.phi(m.type)
    result.add_incoming(y.value, before)
    result.add_incoming(replaced.value, after)
    return Float(m, result)


def _lane_by_lane(m: Emitter, name: str, x: Float) -> Float:
    """The C library's function of doubles, on every lane in turn."""
    if m.lanes is None:
        return Float(m, _call_libm(m, name, x.value))
    b, index_type = m.builder, ir.IntType(32)
    before, loop, after = b.block, b.append_basic_block("lane"), b.append_basic_block("lanes")
    b.branch(loop)
    b.position_at_end(loop)
    index, lanes = b.phi(index_type), b.phi(m.type)
    value = _call_libm(m, name, b.extract_element(x.value, index))
    filled = b.insert_element(lanes, value, index)
    following = b.add(index, ir.Constant(index_type, 1))
    b.cbranch(b.icmp_unsigned("<", following, ir.Constant(index_type, m.lanes)), loop, after)
    for phi, first, later in ((index, ir.Constant(index_type, 0), following), (lanes, x.value, filled)):
        phi.add_incoming(first, before)
        phi.add_incoming(later, loop)
    b.position_at_end(after)
    return Float(m, filled)


def _call_libm(m: Emitter, name: str, x: ir.Value) -> ir.Value:
    double = ir.DoubleType()
    function = m.builder.module.globals.get(name)
    if function is None:
        function = ir.Function(m.builder.module, ir.FunctionType(double, [double]), name)
    if m.double:
        return m.builder.call(function, [x])
    return m.builder.fptrunc(m.builder.call(function, [m.builder.fpext(x, double)]), m.scalar)


# ---- inverse functions ----------------------------------------------------------------------------


def _angle(m: Emitter, quarters: Float, t: Float, w: Float) -> Float:
    """quarters pi/2 + t (1 + w)."""
    low = m.mad(t, w, quarters * m.tables.half_pi[1])
    return m.fma(quarters, m.tables.half_pi[0], t + low)


def _arcsin_kernel(m: Emitter, a: Float) -> tuple[ir.Value, Float, Float]:
    """Whether a < 0.5; s, which is a there and else sqrt((1 - a) / 2); and arcsin(s) / s - 1."""
    small = a < 0.5
    rest = (1.0 - a) * 0.5
    z = m.where(small, a * a, rest)
    return small, m.where(small, a, rest.sqrt()), z * m.polynomial(z, m.tables.arcsin)


def _arcsin(m: Emitter, x: Float) -> Float:
    small, s, w = _arcsin_kernel(m, abs(x))
    return _angle(m, m.where(small, 0.0, 1.0), m.where(small, s, -2.0 * s), w).copysign(x)


def _arccos(m: Emitter, x: Float) -> Float:
    small, s, w = _arcsin_kernel(m, abs(x))
    negative = x < 0.0
    quarters = m.where(small, 1.0, m.where(negative, 2.0, 0.0))
    return _angle(m, quarters, m.where(small, -x, m.where(negative, -2.0, 2.0) * s), w)


def _arctan_of_ratio(m: Emitter, a: Float, b: Float) -> tuple[Float, Float, Float]:
    """quarters, t and w where arctan(a / b) = quarters pi/2 + t (1 + w), for a and b that are not negative."""
    steep, middle = a > b * (1.0 + math.sqrt(2.0)), a > b * (math.sqrt(2.0) - 1.0)
    numerator = m.where(steep, -b, m.where(middle, a - b, a))
    denominator = m.where(steep, a, m.where(middle, a + b, b))
    t = numerator / denominator
    z = t * t
    quarters = m.where(steep, 1.0, m.where(middle, 0.5, 0.0))
    return quarters, t, z * m.polynomial(z, m.tables.arctan)


def _arctan(m: Emitter, x: Float) -> Float:
    return _angle(m, *_arctan_of_ratio(m, abs(x), m.const(1.0))).copysign(x)


def _arctan2(m: Emitter, y: Float, x: Float) -> Float:
    """Zeros and infinities are replaced so that their ratio is what it should be; extreme sizes are scaled."""
    a, b = abs(y), abs(x)
    larger = m.where(a > b, a, b)
    scale = m.where(larger > 2.0 ** (m.bias - 3), 0.25, 1.0)
    scale = m.where(larger < m.smallest_normal * 4.0, 2.0**m.mantissa, scale)
    both = m.builder.and_(a.equals(math.inf), b.equals(math.inf))
    neither = m.builder.and_(a.equals(0.0), b.equals(0.0))
    a = m.where(both, 1.0, a * scale)
    b = m.where(m.builder.or_(both, neither), 1.0, b * scale)
    quarters, t, w = _arctan_of_ratio(m, a, b)
    left = x.has_sign()
    quarters = m.where(left, 2.0 - quarters, quarters)
    return _angle(m, quarters, m.where(left, -t, t), w).copysign(y)


def _log_of_large(m: Emitter, a: Float, x: Float) -> Float:
    """log(2 a) where a is so large that this is the inverse function, else log1p(x)."""
    large = a > m.pick(2.0**60, 2.0**30)
    u, y = _log1p_bounded(m, m.where(large, a, x))
    y = y + m.where(large, m.tables.ln2_nearest[0], 0.0)
    return m.where(u.equals(math.inf), math.inf, y)


def _arcsinh(m: Emitter, x: Float) -> Float:
    a = abs(x)
    square = a * a
    return _log_of_large(m, a, a + square / ((square + 1.0).sqrt() + 1.0)).copysign(x)


def _arccosh(m: Emitter, x: Float) -> Float:
    t = x - 1.0
    y = _log_of_large(m, x, t + m.mad(t, t, t + t).sqrt())
    return m.where(x >= 1.0, y, math.nan)


def _arctanh(m: Emitter, x: Float) -> Float:
    a = abs(x)
    return 0.5 * _log1p(m, (a + a) / (1.0 - a)).copysign(x)


# ---- error function -------------------------------------------------------------------------------


def _erfc_of_large(m: Emitter, a: Float, coefficients: Sequence[float]) -> Float:
    """erfc(a) by one of its two polynomials. The roundings of a^2, a + 2 and its inverse are repaired in exp."""
    d = a + 2.0
    inverse = 1.0 / d
    relative = m.fma(-inverse, a - (d - 2.0), m.fma(-inverse, d, 1.0))
    square, square_low = _exact_product(m, a, a)
    factor = m.polynomial((a - 2.0) * inverse, coefficients) * inverse
    return _exp_of_sum(m, -square, relative - square_low, factor)


def _erf(m: Emitter, x: Float) -> Float:
    a = abs(x).at_most(m.pick(6.0, 4.0))
    near = m.mad(m.polynomial(a * a, m.tables.erf), a, a)
    return m.where(a < 1.0, near, 1.0 - _erfc_of_large(m, a, m.tables.erf_tail)).copysign(x)


def _erfc(m: Emitter, x: Float) -> Float:
    a = abs(x).at_most(m.pick(27.3, 10.1))
    y = _erfc_of_large(m, a, m.tables.erfc)
    near = 1.0 - m.mad(m.polynomial(x * x, m.tables.erf), x, x)
    return m.where(a < 0.5, near, m.where(x < 0.0, 2.0 - y, y))


_FUNCTIONS: dict[str, Callable[..., Float]] = {
    "arccos": _arccos,
    "arccosh": _arccosh,
    "arcsin": _arcsin,
    "arcsinh": _arcsinh,
    "arctan": _arctan,
    "arctan2": _arctan2,
    "arctanh": _arctanh,
    "cos": _cos,
    "cosh": _cosh,
    "erf": _erf,
    "erfc": _erfc,
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "log": _log,
    "log10": _log10,
    "log1p": _log1p,
    "log2": _log2,
    "logaddexp": _logaddexp,
    "pow": _pow,
    "sigmoid": _sigmoid,
    "sin": _sin,
    "sinh": _sinh,
    "softplus": _softplus,
    "tan": _tan,
    "tanh": _tanh,
}

SUPPORTED: frozenset[str] = frozenset({*_FUNCTIONS, *_INTRINSICS})
