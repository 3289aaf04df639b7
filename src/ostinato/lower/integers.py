"""What is known of integers while a loop nest is built: arithmetic of constants, signs, and sizes taken to be equal.

Sizes that meet in an elementwise operation are nearly always equal, but nothing says so before the call.
A nest that assumes it (`Integers.optimistic`) is a fraction of the code: it checks each assumption once, at
the top, and gives up where one does not hold; a nest without assumptions then does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ostinato.lower.expressions import Const, Expr, Load, Op, parts_of

if TYPE_CHECKING:
    from ostinato.lower.loopnest import Nest

Folded = int | bool | Expr | None

_ARITHMETIC: dict[str, Callable[[int, int], int | bool]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "maximum": max,
    "minimum": min,
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_OF_EQUALS: dict[str, bool] = {"eq": True, "le": True, "ge": True, "neq": False, "lt": False, "gt": False}
_LARGEST = 2**63


class Integers:
    """The knowledge of one nest.

    Attributes
    ----------
    optimistic : whether sizes that meet may be assumed to be equal.
    assumptions : how many checks have been emitted on that account.
    """

    def __init__(self, nest: Nest, optimistic: bool) -> None:
        self._nest = nest
        self.optimistic = optimistic
        self.assumptions = 0
        self._equal: dict[Expr, Expr] = {}
        self._definitions: dict[Expr, Expr] = {}
        self._keys: dict[Expr, Expr] = {}
        self._counts: set[Expr] = set()
        self._leaves: dict[Expr, int] = {}

    # ---- what is known ----

    def count(self, expr: Expr) -> Expr:
        """The same expression, from now on known to be no less than zero."""
        self._counts.add(expr)
        return expr

    def define(self, var: Expr, value: Expr) -> None:
        """`var` names the value; remembered unless memory is read, which may change."""
        if self._reads_nothing(value):
            self._definitions[var] = value

    def _reads_nothing(self, expr: Expr) -> bool:
        return not any(isinstance(part, Load) for part in parts_of([expr]))

    def is_count(self, expr: Expr) -> bool:
        """Whether an expression is known to be no less than zero."""
        expr = self._definitions.get(expr, expr) if expr not in self._counts else expr
        if isinstance(expr, Const):
            return bool(expr.value >= 0)
        if expr in self._counts or not isinstance(expr, Op):
            return expr in self._counts
        if expr.name == "maximum":
            return any(map(self.is_count, expr.args))
        return expr.name in ("add", "mul", "minimum") and all(map(self.is_count, expr.args))

    def same(self, a: Expr, b: Expr) -> bool:
        """Whether two integers are known to be equal."""
        return a is b or self._key(a) is self._key(b)

    def representative(self, expr: Expr) -> Expr:
        """A plain expression that is known to be equal to this one."""
        key = self._key(expr)
        return key if _rank(key) < _rank(expr) else expr

    def expanded(self, expr: Expr) -> Expr:
        """An equal expression in which as few variables occur as possible."""
        return self._key(expr)

    def assume_equal(self, a: Expr, b: Expr) -> None:
        """Give up at run time unless two sizes are equal, though they need not be; take them for one from now on."""
        if not self.same(a, b):
            self.assumptions += 1
            self.require_equal(a, b)

    def require_equal(self, a: Expr, b: Expr) -> None:
        """Fail unless two sizes are equal; take them for one from now on."""
        if self.same(a, b):
            return
        self._nest.fail_if(self._nest.op("neq", a, b, dtype="bool"))
        first, second = self._key(a), self._key(b)
        if self._weight(second) < self._weight(first):
            first, second = second, first
        if self.is_count(first) or self.is_count(second):
            self._counts |= {first, second}
        self._equal[second] = first
        self._keys.clear()

    def assume(self, condition: Expr) -> None:
        """Give up at run time unless a condition holds that nearly always does."""
        if isinstance(condition, Const) and condition.value:
            return
        self.assumptions += 1
        self._nest.fail_if(self._nest.op("logical_not", condition, dtype="bool"))

    def _key(self, expr: Expr) -> Expr:
        """What stands for all equal integers: named values and assumed equalities seen through."""
        known = self._keys.get(expr)
        if known is None:
            self._keys[expr] = expr  # equal products may lead around in a circle: whoever comes back has arrived
            known = self._keys[expr] = self._found(expr)
        return known

    def _weight(self, expr: Expr) -> Any:
        """What orders expressions: of equal ones the least stands for all.

        By size, then part by part, so that an expression becomes less when a part does. Else replacing
        parts could lead back to where it began.
        """
        if isinstance(expr, Op):
            parts = tuple(map(self._weight, expr.args))
            return 1 + sum(p[0] for p in parts), expr.name, parts
        if isinstance(expr, Const):
            return 0, "", (repr(expr.value),)
        return 1, "", (self._leaves.setdefault(expr, len(self._leaves)),)

    def _found(self, expr: Expr) -> Expr:
        if expr in self._equal:
            return self._key(self._equal[expr])
        if expr in self._definitions:
            return self._key(self._definitions[expr])
        if not isinstance(expr, Op) or expr.dtype != "int64":
            return expr
        again = self._nest.op(expr.name, *map(self._key, expr.args), dtype=expr.dtype)
        return expr if again is expr else self._key(again)

    # ---- arithmetic ----

    def fold(self, name: str, args: tuple[Expr, ...]) -> Folded:
        """What an operation on integers or truth values gives, as far as is known; else None."""
        if name == "where":
            return self._where(*args)
        if name == "logical_not" and isinstance(args[0], Const):
            return not args[0].value
        if len(args) != 2:
            return None
        a, b = args
        x, y = _value(a), _value(b)
        if a.dtype == "bool":
            return _logic(name, a, b)
        if a.dtype.startswith("float") and name in ("mul", "true_div") and y == 1:
            return a
        if a.dtype.startswith("float") and name == "mul" and x == 1:
            return b
        if a.dtype != "int64" or name not in _ARITHMETIC:
            return None
        if x is not None and y is not None:
            result = _ARITHMETIC[name](int(x), int(y))
            return result if isinstance(result, bool) or -_LARGEST <= result < _LARGEST else None
        if name in _OF_EQUALS:
            return _OF_EQUALS[name] if self.same(a, b) else self._by_sign(name, a, b, x, y)
        if name in ("maximum", "minimum"):
            return self._extreme(name, a, b)
        return self._linear(name, a, b, x, y)

    def _where(self, condition: Expr, a: Expr, b: Expr) -> Folded:
        if isinstance(condition, Const):
            return a if condition.value else b
        return a if a is b or (a.dtype == "int64" and self.same(a, b)) else None

    def _by_sign(self, name: str, a: Expr, b: Expr, x: int | None, y: int | None) -> Folded:
        if y == 0 and self.is_count(a):
            return {"ge": True, "lt": False}.get(name)
        if x == 0 and self.is_count(b):
            return {"le": True, "gt": False}.get(name)
        (m, base), (n, other) = self._multiple(a), self._multiple(b)
        if base is other and self.is_count(base):
            if m <= n and name in ("le", "gt"):
                return name == "le"
            if m >= n and name in ("ge", "lt"):
                return name == "ge"
        return None

    def _multiple(self, expr: Expr) -> tuple[int, Expr]:
        """An expression as so many times another one."""
        key = self._key(expr)
        if isinstance(key, Op) and key.name == "mul":
            for factor, other in (key.args, key.args[::-1]):
                if (n := _value(factor)) is not None:
                    return n, other
        return 1, key

    def _extreme(self, name: str, a: Expr, b: Expr) -> Folded:
        if self.same(a, b):
            return a
        for zero, other in ((a, b), (b, a)):
            if _value(zero) == 0 and self.is_count(other):
                return other if name == "maximum" else zero
        return None

    def _linear(self, name: str, a: Expr, b: Expr, x: int | None, y: int | None) -> Folded:
        nest = self._nest
        if name == "mul":
            if x == 0 or y == 0:
                return 0
            return b if x == 1 else a if y == 1 else None
        if name == "sub":
            (m, base), (n, other) = self._multiple(a), self._multiple(b)
            if base is other:
                return nest.op("mul", nest.const(m - n), base)
            return nest.op("add", a, nest.const(-y)) if y is not None and y > -_LARGEST else None
        if x == 0 or y == 0:
            return a if y == 0 else b
        if y is not None and isinstance(a, Op) and a.name == "add":
            step = _value(a.args[1])
            if step is not None and -_LARGEST <= step + y < _LARGEST:
                return nest.op("add", a.args[0], nest.const(step + y))
        return None


def _logic(name: str, a: Expr, b: Expr) -> Folded:
    if name not in ("and", "or"):
        return None
    neutral = name == "and"
    for known, other in ((a, b), (b, a)):
        if isinstance(known, Const):
            return other if bool(known.value) == neutral else not neutral
    return a if a is b else None


def _value(expr: Expr) -> int | None:
    """The value of a constant."""
    return expr.value if isinstance(expr, Const) else None


def _rank(expr: Expr) -> int:
    """The size of an expression."""
    if isinstance(expr, Op):
        return 1 + sum(map(_rank, expr.args))
    return 0 if isinstance(expr, Const) else 1
