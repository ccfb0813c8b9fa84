"""Chooses the sizes at which a window is proven: small ones, which keep what happens at borders.

Sizes are shrunk where operators do the same at every position. Free ones are also 1, which spreads
over another size, and below what something is cut at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bnfold.graph.size_terms import factors_of
from bnfold.proof.certificates.sizes.locality import is_alike_in_channels, kind_of
from bnfold.proof.certificates.sizes.reach import sizes_along
from bnfold.proof.certificates.sizes.size_demands import (
    common_step,
    compares_sizes,
    cuts_first,
    largest_cut,
    normalized_channels,
    rank_read,
    ranks_beside,
    readers_before,
    require_one_comparison,
    required_size,
    rests_of_sizes,
    sizes_at_cuts,
    sizes_computed,
)
from bnfold.proof.certificates.windows import NotShown, Window, ints

Shapes = dict[str, tuple[int, ...]]

_FREE = 5
"""What free sizes are at first, where nothing asks for more; then one more."""

_MOST_SPATIAL = 3
"""Axes that a kernel has at most."""

_MOST_RESTS = 8
"""Rests that a stride may leave, of those that are tried."""

_MOST_RESTS_ANYWHERE = 16
"""The same, where positions may depend on all of an axis; if there are more, nothing is shown."""

_MOST_SMALL = 16
"""Sizes below the usual ones that are tried, of those at which something else may happen."""

_MOST_COMPARED = 48
"""The same, where sizes are compared with constants: then all of these are tried."""

_MOST_ELEMENTS = 2**24
"""In an input of a window, over all of its samples."""


@dataclass(frozen=True)
class Sizing:
    """A choice of shapes.

    `stackable` says that the size of the first axis may be any, `batched` that it counts samples
    that do not mix.
    """

    shapes: Shapes
    stackable: bool
    batched: bool
    shrunk: bool
    is_small: bool = False
    """Whether a free size is below the usual ones: what is replaced need not run then."""


def sizings(window: Window) -> list[Sizing]:
    """Return shapes for the inputs: small ones, which keep what happens at borders.

    Several where sizes are free, because a stride may leave a rest.

    Raises:
        NotShown: if the number of axes is not known.
    """
    known: dict[str, list[int | str]] = {}
    for value in window.inputs:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            known[value.name] = [""] * rank_read(window, value.name)
            continue
        known[value.name] = [
            size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else size.dim_param
            for size in tensor.shape.dim
        ]
    has_free = any(isinstance(size, str) for sizes in known.values() for size in sizes)
    if has_free and _squeezes_any(window):
        raise NotShown("it squeezes all axes of size 1, and a size is free")
    kind = kind_of(window, known)
    if kind == "local":
        spatial = range(max(map(len, known.values())) - 2)
        rests = min(math.lcm(*(sizes_along(window, axis).period for axis in spatial)), _MOST_RESTS)
    else:
        is_strided = any(isinstance(size, str) for sizes in known.values() for size in sizes[1:])
        strided = common_step(window) if is_strided or cuts_first(window) else 1
        rests = max(2, rests_of_sizes(window, strided))
        if has_free and rests > _MOST_RESTS_ANYWHERE:
            raise NotShown(f"its strides leave {rests} rests of a free size")
    choices: list[Sizing] = []
    apart = [] if kind else [(_FREE, True)]
    equal = [(_FREE + rest, False) for rest in range(rests if has_free else 1)]
    for free, are_apart in equal + apart:
        made = _sizing(window, known, kind, free, are_apart=are_apart)
        if made not in choices:
            choices.append(made)
    return choices + _smaller(window, known, kind, choices[0])


def require_small(chosen: Sequence[Sizing]) -> None:
    """Raise `NotShown` unless all inputs have few enough elements to compute with."""
    for sizing in chosen:
        for name, shape in sizing.shapes.items():
            if math.prod(shape) > _MOST_ELEMENTS:
                raise NotShown(f"its input {name!r} is too large for float64 ({list(shape)})")


def _squeezes_any(window: Window) -> bool:
    """Say whether a Squeeze names no axes; what is computed from sizes has as many at any size."""
    return any(
        node.op_type == "Squeeze"
        and len(node.input) < 2
        and not ints(node, "axes")
        and node.input[0] not in sizes_computed(window)
        for node in window.nodes()
    )


def _sizing(
    window: Window,
    known: Mapping[str, Sequence[int | str]],
    kind: str,
    free: int,
    *,
    are_apart: bool,
) -> Sizing:
    """Choose a size for each axis; free ones of one name have the same.

    If they are to be apart, those of other axes have others. The product of others comes after
    these.
    """
    names: dict[str, int] = {}
    shapes: Shapes = {}
    for name, sizes in sorted(known.items(), key=lambda item: any(map(_is_product, item[1]))):
        chosen = []
        for axis, size in enumerate(sizes):
            if isinstance(size, int):
                chosen.append(_shrunk(window, known, kind, name, axis))
            elif all(factor in names for factor in _sizes_of(size)):
                chosen.append(_product(size, names))
            else:
                more = axis if are_apart else 0
                chosen.append(_free(window, kind, name, axis, len(sizes), free + more))
                is_map = kind == "local" and axis >= 2
                is_product = _is_product(size) and not is_map
                if is_product and not _asked_for(window, name, axis, len(sizes)):
                    _choose_factors(size, names, chosen[-1], free + more - _FREE)
                    chosen[-1] = _product(size, names)
                elif size:
                    names[size] = chosen[-1]
        shapes[name] = tuple(chosen)
    stackable = all(
        bool(sizes)
        and (shapes[name][0] == 1 or isinstance(sizes[0], str))
        and not required_size(window, name, 0, len(sizes))
        for name, sizes in known.items()
    )
    shrunk = any(
        isinstance(size, int) and chosen < size
        for name, sizes in known.items()
        for size, chosen in zip(sizes, shapes[name], strict=True)
    )
    return Sizing(shapes, stackable, bool(kind) and stackable, shrunk)


def _is_product(size: int | str) -> bool:
    return isinstance(size, str) and len(factors_of(size)) > 1


def _sizes_of(size: str) -> list[str]:
    """Return the names of the sizes of which one is a product or multiple; of most, its own."""
    return [factor for factor in factors_of(size) if isinstance(factor, str)]


def _product(size: str, names: Mapping[str, int]) -> int:
    """Return a size by those of which it is the product."""
    return math.prod(each if isinstance(each, int) else names[each] for each in factors_of(size))


def _choose_factors(size: str, names: dict[str, int], needed: int, more: int) -> None:
    """Choose sizes that no input has, and of which one is a product, for it to be large enough."""
    missing = {factor for factor in _sizes_of(size) if factor not in names}
    given = _product(size, {**dict.fromkeys(missing, 1), **names})
    names.update(dict.fromkeys(missing, max(2, -(-(needed - more) // given)) + more))


def _shrunk(
    window: Window, known: Mapping[str, Sequence[int | str]], kind: str, name: str, axis: int
) -> int:
    """Return a size as small as keeps what happens at borders."""
    size = known[name][axis]
    assert isinstance(size, int)
    if axis == 0 and kind and len({sizes[0] for sizes in known.values()}) == 1:
        return size if required_size(window, name, 0, len(known[name])) else 1
    if kind == "local" and axis >= 2:
        sizes = sizes_along(window, axis - 2)
        smallest = size // sizes.ratios[name]
        if all(known[each][axis] == smallest * ratio for each, ratio in sizes.ratios.items()):
            size = min(smallest, sizes.least + (smallest - sizes.least) % sizes.period)
            return size * sizes.ratios[name]
        return size
    if kind == "local" and axis == 1 and is_alike_in_channels(window):
        return 1
    is_row = kind == "rows" and 0 < axis < len(known[name]) - 1
    return 1 if is_row and len({sizes[axis] for sizes in known.values()}) == 1 else size


def _free(window: Window, kind: str, name: str, axis: int, rank: int, free: int) -> int:
    """Return a size for an axis whose size is free, beyond what something is cut at."""
    required = _asked_for(window, name, axis, rank)
    if required:
        return required
    if axis == 0 and (kind or not cuts_first(window)):
        return 2 + free - _FREE
    if kind == "local" and axis >= 2:
        sizes = sizes_along(window, axis - 2)
        return (sizes.least + free - _FREE) * sizes.ratios[name]
    if kind == "local":
        return 1 if is_alike_in_channels(window) else free
    reach = max(sizes_along(window, spatial).least for spatial in range(_MOST_SPATIAL))
    ratio = sizes_along(window, axis - 2).ratios[name] if 2 <= axis < 2 + _MOST_SPATIAL else 1
    return (free + 2 * reach + largest_cut(window)) * ratio


def _asked_for(window: Window, name: str, axis: int, rank: int) -> int:
    """Return the size that a constant asks of an axis, if need be after it is moved; 0 if none."""
    pending, seen = [(name, axis)], {name}
    while pending:
        value, place = pending.pop()
        asked = required_size(window, value, place, rank) or (
            normalized_channels(window, value) if place == 1 else 0
        )
        if asked:
            return asked
        for node in readers_before(window, value):
            order = ints(node, "perm") if node.op_type == "Transpose" else []
            ranks = ranks_beside(window, node, value)
            if node.output[0] in seen or not (order or ranks is not None):
                continue
            if len(order or [0] * rank) == rank and max(ranks or [0]) <= rank:
                seen.add(node.output[0])
                pending.append((node.output[0], order.index(place) if order else place))
    return 0


_Places: TypeAlias = Mapping[str, Sequence[tuple[str, int]]]
"""Axes of inputs of which the sizes are free, by the name of the size; one without is alone."""


def _smaller(
    window: Window, known: Mapping[str, Sequence[int | str]], kind: str, usual: Sizing
) -> list[Sizing]:
    """Return choices of smaller free sizes: of all of them, and 1 for each of them alone."""
    places = _free_places(known)
    products = _products(places)
    smaller = {
        symbol: _multiples(symbol, found)
        for symbol, of_it in places.items()
        if symbol not in products and (found := _small_sizes(window, known, kind, usual, of_it))
    }
    require_one_comparison(window, len(smaller))
    most = max(map(len, smaller.values()), default=0)
    together = [
        {symbol: sizes[min(at, len(sizes) - 1)] for symbol, sizes in smaller.items()}
        for at in range(most)
    ]
    alone = [{symbol: sizes[0]} for symbol, sizes in smaller.items()]
    choices: list[Sizing] = []
    for change in (*together, *alone):
        shapes = _changed(window, usual.shapes, kind, places, change)
        is_batch_kept = all(shape[:1] == usual.shapes[name][:1] for name, shape in shapes.items())
        stackable = usual.stackable and is_batch_kept
        small = Sizing(shapes, stackable, usual.batched, usual.shrunk, is_small=True)
        if small not in choices:
            choices.append(small)
    return choices


def _multiples(size: str, found: Sequence[int]) -> list[int]:
    """Return the next multiples of a number of which a size is one."""
    number = math.prod(factor for factor in factors_of(size) if isinstance(factor, int))
    return sorted({-(-each // number) * number for each in found})


def _free_places(known: Mapping[str, Sequence[int | str]]) -> _Places:
    places: dict[str, list[tuple[str, int]]] = {}
    for name, sizes in known.items():
        for axis, size in enumerate(sizes):
            if isinstance(size, str):
                places.setdefault(size or f"{name}[{axis}]", []).append((name, axis))
    return places


def _products(places: _Places) -> set[str]:
    """Return the sizes that are products, or multiples, of others."""
    return {
        symbol for symbol in places if _is_product(symbol) and places.keys() >= {*_sizes_of(symbol)}
    }


def _changed(
    window: Window, usual: Shapes, kind: str, places: _Places, change: Mapping[str, int]
) -> Shapes:
    """Return the usual shapes with other free sizes, and with what these are factors of."""
    usually = {symbol: usual[name][axis] for symbol, ((name, axis), *_) in places.items()}
    products = {symbol: _product(symbol, {**usually, **change}) for symbol in _products(places)}
    shapes = {name: list(shape) for name, shape in usual.items()}
    for symbol, size in {**change, **products}.items():
        for name, axis in places[symbol]:
            is_map = kind == "local" and axis >= 2
            ratio = sizes_along(window, axis - 2).ratios[name] if is_map else 1
            shapes[name][axis] = size * ratio
    return {name: tuple(shape) for name, shape in shapes.items()}


def _small_sizes(
    window: Window,
    known: Mapping[str, Sequence[int | str]],
    kind: str,
    usual: Sizing,
    places: Sequence[tuple[str, int]],
) -> list[int]:
    """Return sizes below the usual one at which something else may happen, from 1 on.

    Axes along which samples or rows do not mix have none.
    """
    ranks = {name: len(sizes) for name, sizes in known.items()}
    if kind and any(axis == 0 for _, axis in places):
        return []
    if kind == "rows" and any(axis < ranks[name] - 1 for name, axis in places):
        return []
    if any(_asked_for(window, name, axis, ranks[name]) for name, axis in places):
        return [1]  # which may spread over it
    limit = min(usual.shapes[name][axis] for name, axis in places)
    if kind == "local":
        spatial = [axis - 2 for _, axis in places if axis >= 2]
        return _thinned(range(1, min((sizes_along(window, a).least for a in spatial), default=2)))
    reach = max(sizes_along(window, spatial).least for spatial in range(_MOST_SPATIAL))
    critical = {1, *range(1, reach), *sizes_at_cuts(window)}
    found = sorted(size for size in critical if size < limit)
    if not compares_sizes(window):
        return _thinned(found)
    if len(found) > _MOST_COMPARED:
        raise NotShown(f"it compares sizes, and does so differently for {len(found)} of them")
    return found


def _thinned(sizes: Sequence[int]) -> list[int]:
    """Return as many of the sizes as are tried, the first and the last among them."""
    if len(sizes) <= _MOST_SMALL:
        return list(sizes)
    step = (len(sizes) - 1) / (_MOST_SMALL - 1)
    return [sizes[round(at * step)] for at in range(_MOST_SMALL)]
