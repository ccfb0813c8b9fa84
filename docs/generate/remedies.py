"""What to do about a reason to refuse that names no remedy itself."""

from __future__ import annotations

from bnfold.rewriting.contract import Refusal

_NO_GAIN = "Nothing: the rewrite would not make the model faster."
_NOT_COUNTED = "Build the network with `count_include_pad=False`, if it may change."
_CONSTANT = "Export the model with its weights as constants."
_NARROW = "Export the model in a type with a wider range, such as float32."
_NOTHING = "Nothing: the identity does not hold here."

_REMEDIES = {
    "ACTIVATION_SHIFT": "Build the network with the BatchNormalization before the activation.",
    "AFFINE_NEXT": "Nothing: the affine map is folded first, and then this is tried again.",
    "CONSTANT_SHARED": "Nothing: the model would grow by the constant.",
    "COSTLIER": _NO_GAIN,
    "COUNTED_PADDING": _NOT_COUNTED,
    "EXTRA_OUTPUT_USED": "Export the model without the other output, if nothing needs it.",
    "FUSED_BY_RUNTIME": _NO_GAIN,
    "GRAPH_INPUT": "Nothing, unless the operator after it can take it: "
    "build the network without padding there.",
    "GRAPH_OUTPUT": "Export the model without this output, if nothing needs it.",
    "INDICES_USED": "Export the model without the Indices, if nothing needs them.",
    "MASK_UNDEFINED": "Convert the model to opset 12 or later, or export it without the mask.",
    "MORE_MULTIPLICATIONS": _NO_GAIN,
    "NARROWER_TYPE": "Cast after the operator that follows, or export the model in one type.",
    "NOT_REPRESENTABLE": _NARROW,
    "NOT_SMALLER": _NO_GAIN,
    "NO_GAIN": _NO_GAIN,
    "NO_KERNEL": _NO_GAIN,
    "PADDED_AVERAGE": _NOT_COUNTED,
    "PADDED_BY_SIZE": "Export the model with explicit padding instead of `auto_pad`.",
    "PARAMETERS_MALFORMED": "Repair the model: the four parameters are vectors of one length.",
    "PARAMETER_NOT_CONSTANT": _CONSTANT,
    "POOLED": "Nothing: the pool moves instead, which saves more.",
    "POOL_GOES_FIRST": "Nothing: the pool moves instead, which saves more.",
    "RANGE_EXCEEDED": _NARROW,
    "SHARED": "See which operator `bnfold explain` names, and drop it if nothing needs it.",
    "TRANSPOSED_SHIFT": "Build the network with the BatchNormalization after the ConvTranspose.",
    "WEIGHT_NOT_CONSTANT": _CONSTANT,
}


def remedy_of(reason: Refusal) -> str:
    """Return a sentence on what to do: the reason's own remedy, if it has one."""
    if reason.remedy:
        return f"{reason.remedy[0].upper()}{reason.remedy[1:]}."
    return _REMEDIES.get(reason.name, _NOTHING)
