"""Proves that two small models compute the same for all inputs, or shows where they do not.

Nothing here knows what made them. A proof goes by what their operators are:

- *constant*: what depends on constants alone is computed by onnxruntime. Then both are the same
  operators over the same bits.
- *copying*: the outputs are elements of the inputs. Inputs of distinct values show which.
- *weights*: both are sums of the same linear operators, scaled by channels. Their weights, with the
  scales in them, are compared number by number.
- *linear*: both are affine. Gaussian probes in float64 bound each row of the difference.
- *selection*: maxima over windows, and functions of one element. One-hot inputs show which elements
  a maximum is over; a grid shows that the functions are the same, and increasing.
- *sampled*: anything else. Nothing is proven, but what differs is found.

The derivation of the bounds is in docs/certificates.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from bnfold.errors import BnfoldError
from bnfold.proof.certificates.casts import prove_casts
from bnfold.proof.certificates.channels import prove_channels
from bnfold.proof.certificates.choices import prove_choices
from bnfold.proof.certificates.constant_folding import with_constants_computed, with_sizes
from bnfold.proof.certificates.copying import prove_copying
from bnfold.proof.certificates.deadline import OutOfTime, limited
from bnfold.proof.certificates.homogeneous import prove_homogeneous
from bnfold.proof.certificates.kinds import is_copying, require_same_types, rounding_casts
from bnfold.proof.certificates.linear import prove_linear, prove_maximum
from bnfold.proof.certificates.normal_forms.activations import with_activations_last
from bnfold.proof.certificates.normal_forms.bodies import CLOSED, with_bodies_closed
from bnfold.proof.certificates.normal_forms.broadcasts import (
    expands_operands,
    with_broadcasts,
    with_constants_expanded,
)
from bnfold.proof.certificates.normal_forms.columns import with_columns_read
from bnfold.proof.certificates.normal_forms.congruence import peeled, without_shared
from bnfold.proof.certificates.normal_forms.definitions import with_definitions
from bnfold.proof.certificates.normal_forms.extremes import with_extremes_apart
from bnfold.proof.certificates.normal_forms.kept_axes import with_axes_kept
from bnfold.proof.certificates.normal_forms.padded_pools import with_pads_in_pools
from bnfold.proof.certificates.normal_forms.products import with_scales_after_products
from bnfold.proof.certificates.normal_forms.projections import with_projections
from bnfold.proof.certificates.normal_forms.scales_first import with_scales_first
from bnfold.proof.certificates.normal_forms.turning import (
    with_transposes_first,
    with_transposes_last,
)
from bnfold.proof.certificates.normal_forms.unflattened import with_rows_of_tensors
from bnfold.proof.certificates.occurring import Side, that_occur
from bnfold.proof.certificates.probing import Differs
from bnfold.proof.certificates.sampling import sample
from bnfold.proof.certificates.selection import prove_selection
from bnfold.proof.certificates.sizes.interleaving import with_interleaving
from bnfold.proof.certificates.sizes.resizing import with_scales
from bnfold.proof.certificates.sizes.sizing import Sizing, require_small, sizings
from bnfold.proof.certificates.submodels import of_one_output
from bnfold.proof.certificates.sums.weights import prove_weights
from bnfold.proof.certificates.tables import prove_rows, with_tables_as_products
from bnfold.proof.certificates.taps import with_pools_first
from bnfold.proof.certificates.windows import AFFINE, POINTWISE, NotShown, Window, is_random
from bnfold.proof.float64.evaluation import NoTruth
from bnfold.record.data import Certificate


def certify_any(windows: Iterable[Window], seconds: float = math.inf) -> Certificate:
    """Prove one of several windows of a rewrite, of which each next one knows more of its inputs.

    What differs with what cannot occur is no difference.
    """
    found: list[Certificate] = []
    for window in windows:
        found.append(certify(window, seconds))
        if found[-1].verdict == "certified":
            return found[-1]
    return next((each for each in found if each.verdict != "differs"), found[-1])


def certify(window: Window, seconds: float = math.inf) -> Certificate:
    """Prove a window, or find a difference; between its steps, give up if it is late."""
    begun = time.monotonic()
    with limited(seconds):
        certificate = _certify(window)
    return replace(certificate, seconds=time.monotonic() - begun)


def _certify(window: Window) -> Certificate:
    try:
        if not window.before.graph.output:  # nothing reads what was replaced
            return Certificate("certified", "constant")
        defined = with_bodies_closed(with_definitions(with_axes_kept(window)))
        computed = with_pads_in_pools(with_scales(with_constants_computed(defined)))
        if (rows := with_rows_of_tensors(computed)) is not computed:
            computed = with_constants_computed(rows)
        if "Shape" in computed.operators or (
            expands_operands(computed) and computed.has_free_sizes
        ):
            is_same = not peeled(without_shared(computed))  # at any sizes
            return Certificate("certified", "constant") if is_same else _at_sizes(computed)
        with suppress(NotShown, NoTruth, BnfoldError, Differs):
            products = with_tables_as_products(computed)
            certificate = prove_rows(products, sizings(products)) or _proven(products)
            if certificate.verdict == "certified":
                return certificate
        if (turned := _without_transposes(computed)) is not None:
            with suppress(NotShown, NoTruth, BnfoldError, Differs):  # whose indices are others
                return _of_any(_forms(turned))
        return _of_any(_forms(computed))
    except (NotShown, NoTruth, OutOfTime, BnfoldError) as reason:
        return Certificate("open", note=str(reason) or failed(reason))
    except Differs as differs:
        return Certificate("differs", worst=differs.difference)
    except Exception as error:  # a model may be anything, and then the whole is still compared
        return Certificate("open", note=failed(error))


def failed(error: Exception) -> str:
    """Return an error as a reason; many have no message, and none is one alone."""
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"its proof failed with {told}"


def _without_transposes(window: Window) -> Window | None:
    """Return a window that had Transposes, if both sides share what is left of them."""
    turned = with_transposes_last(with_transposes_first(window))
    if turned is window:
        return None
    left = peeled(without_shared(turned))
    return None if any("Transpose" in each.operators for each in left) else turned


def _forms(window: Window) -> Iterator[Window]:
    """Yield a window, and the same written otherwise: first what is proven fastest."""
    scaled = with_scales_first(window)
    columns = with_columns_read(scaled)
    if columns is not scaled:
        yield columns
    if scaled is not window:
        yield scaled
    expanded = with_broadcasts(window)
    if expanded is not window:
        yield expanded
    yield window
    for make in (with_transposes_first, with_constants_expanded):
        if (other := make(window)) is not window:
            yield other


def _of_any(forms: Iterable[Window]) -> Certificate:
    """Prove one of the forms of a window.

    Raises:
        Differs: if the two sides do.
        NotShown: if it is neither equal nor different.
    """
    found: Certificate | None = None
    reasons = []
    for form in forms:
        try:
            certificate = _proven(form)
        except (NotShown, NoTruth, BnfoldError) as reason:
            reasons.append(reason)
            continue
        if certificate.verdict == "certified":
            return certificate
        found = found or certificate
    if found is None:
        raise reasons[-1]
    return found


def _proven(computed: Window) -> Certificate:
    of_weights = prove_weights(computed)
    if of_weights is not None and of_weights.bound:  # without a bound, it may be the same bits
        return of_weights
    if not peeled(without_shared(computed)):
        return Certificate("certified", "constant")
    computed = with_projections(computed)
    computed = with_extremes_apart(with_pools_first(with_scales_after_products(computed)))
    computed = with_interleaving(with_activations_last(computed))
    rest = peeled(without_shared(computed))
    if not rest:
        return Certificate("certified", "constant")
    try:
        certificates = [_of_one(each) for each in rest]
    except (Differs, NotShown, NoTruth, BnfoldError):  # operands may differ, results need not
        certificates = [found for each in of_one_output(computed) for found in _of_output(each)]
    if not certificates:  # each output by itself is computed alike
        return Certificate("certified", "constant")
    doubts = [found.doubt for found in certificates if found.doubt is not None]
    worst = max(certificates, key=lambda found: (found.verdict != "certified", found.bound or 0.0))
    return replace(worst, doubt=sum(doubts) if doubts else None)


def _of_output(window: Window) -> list[Certificate]:
    """Prove a window of one output: what it is computed from, alike on both sides, or itself."""
    rest = peeled(window)
    with suppress(NotShown, NoTruth, BnfoldError, Differs):  # operands may differ again
        certificates = [_of_one(each) for each in rest]
        if all(found.verdict == "certified" for found in certificates):
            return certificates
    return [_of_one(window)] if rest else []


def _at_sizes(window: Window) -> Certificate:
    """Prove a window that computes with sizes at each of a choice of them."""
    certificates = []
    chosen = that_occur(window, sizings(window))
    for sizing in chosen:
        fixed, left = with_sizes(window, sizing.shapes), math.inf
        while _number_of_shapes(fixed) < left:  # a size within may depend on another one
            left = _number_of_shapes(fixed)
            fixed = with_sizes(fixed, sizing.shapes) if left else fixed
        if left:
            raise NotShown("it computes with the sizes of what is within it")
        certificates.append(_certify(fixed))
        if certificates[-1].verdict == "differs":
            return certificates[-1]
    after = Side(window.after)
    if any(after.result(sizing) is None for sizing in chosen if sizing.is_small):
        raise NotShown("what replaces it does not run at sizes at which what is replaced does")
    return max(certificates, key=lambda found: found.verdict != "certified")


def _number_of_shapes(window: Window) -> int:
    """Return how many operators ask for a size."""
    return sum(node.op_type == "Shape" for node in window.nodes())


def _of_one(window: Window) -> Certificate:
    """Prove a window of one output.

    Raises:
        NotShown: if it is neither equal nor different.
    """
    if any(is_random(node, window.constants) for node in window.nodes()):
        raise NotShown("it draws random numbers")
    if any(node.domain == CLOSED for node in window.nodes()):
        raise NotShown("a body within it depends on what varies")
    if (certificate := prove_weights(window)) is not None:
        return certificate
    if "DeformConv" in window.operators:
        raise NotShown("it evaluates a DeformConv, which takes too long")
    rounded = rounding_casts(window)
    every = sizings(window)
    require_small(every)
    chosen = that_occur(window, every)
    if is_copying(window):
        return prove_copying(window, chosen)
    require_same_types(window)
    if not window.unit:
        raise NotShown("it computes with integers")
    if rounded:
        if (certificate := prove_casts(window, chosen)) is not None:
            return certificate
        raise NotShown(f"it rounds to {' and '.join(sorted(rounded))} within")
    if "Where" in window.operators and (certificate := prove_choices(window, chosen)) is not None:
        return certificate
    if not window.is_of_floats:
        return sample(window, chosen)
    proofs: list[tuple[frozenset[str], Callable[[Window, Sequence[Sizing]], Certificate | None]]]
    proofs = [
        (AFFINE, prove_linear),
        (POINTWISE | {"MaxPool", "Pad"}, prove_selection),
        (AFFINE | {"MaxPool"}, prove_maximum),
    ]
    for operators, prove in proofs:
        if window.operators <= operators and (certificate := prove(window, chosen)) is not None:
            return certificate
    return (
        prove_homogeneous(window, chosen)
        or prove_choices(window, chosen)
        or prove_channels(window, chosen)
        or sample(window, chosen)
    )
