"""Transforms of albumentations: built from their specs, and tried before they are trained with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.errors import UserError, nearest


def albumentations_pipeline(specs: tuple[dict[str, Any] | str, ...]) -> Any:
    """`[Transpose, {GaussianBlur: {p: 0.2}}, …]` as one Compose on uint8 RGB, or None for an empty list."""
    if not specs:
        return None
    import albumentations

    return albumentations.Compose([_transform(spec) for spec in specs])


def _transform(spec: Any) -> Any:
    """One transform of a spec; OneOf, SomeOf, Sequential … take a list of specs as their `transforms`."""
    import albumentations

    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, dict) or len(spec) != 1:
        raise UserError(f"augment.albumentations: {spec!r} should be one name with its arguments, {{Name: {{p: 0.5}}}}")
    ((name, arguments),) = spec.items()
    transform = getattr(albumentations, str(name), None)
    if not (isinstance(transform, type) and issubclass(transform, _kinds())):
        raise UserError(f"augment.albumentations: no transform {name!r}{nearest(str(name), _names())}")
    if arguments is not None and not isinstance(arguments, (dict, list, tuple)):
        raise UserError(f"augment.albumentations: {name}: expected its arguments, {{p: 0.5}}, not {arguments!r}")
    arguments = {"transforms": arguments} if isinstance(arguments, (list, tuple)) else dict(arguments or {})
    if issubclass(transform, albumentations.BaseCompose):
        arguments = _nested(str(name), arguments)
    try:
        with warnings.catch_warnings():  # it only warns of an unknown argument, and would go on without it
            warnings.filterwarnings("error", message="Argument")
            return transform(**arguments)
    except Exception as error:  # of its validators, whatever they raise
        raise UserError(f"augment.albumentations: {name}: {' '.join(str(error).split())[:300]}") from None


def _nested(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a transform of others, which are built: a list of specs or a mapping of names to arguments as
    its `transforms`, or one spec each as `first` and `second`."""
    inner = arguments.get("transforms")
    if isinstance(inner, dict):
        inner = [{key: value} for key, value in inner.items()]
    if isinstance(inner, (list, tuple)) and inner:
        return arguments | {"transforms": [_transform(spec) for spec in inner]}
    if "first" in arguments and "second" in arguments:
        return arguments | {key: _transform(arguments[key]) for key in ("first", "second")}
    raise UserError(
        f"augment.albumentations: {name}: takes a list of transforms, {{{name}: [{{Blur: {{}}}}, Transpose]}}"
    )


def _kinds() -> tuple[type, ...]:
    import albumentations

    return albumentations.BasicTransform, albumentations.BaseCompose


def _names() -> list[str]:
    import albumentations

    return [
        name for name, kind in vars(albumentations).items() if isinstance(kind, type) and issubclass(kind, _kinds())
    ]


# What to do about transforms that do not give back pictures of the kind and size that they got.
INSTEAD = {
    "Normalize": "leave it out: pictures are normalised behind the augmentation (normalise=)",
    "ToFloat": "leave it out: pictures become shares of 1 behind the augmentation",
    "ToTensorV2": "leave it out: batches become tensors behind the augmentation",
    "ToGray": "give it num_output_channels=3, or set competition.channels=1",
    "Resize": "leave it out: size= decides",
}


def check_albumentations(
    specs: tuple[dict[str, Any] | str, ...], sizes: Sequence[int], channels: int, dtype: Any
) -> None:
    """Try each transform on pictures of `sizes`: UserError for one that fails, or whose output is no picture of the
    same kind and size, which would be trained on as noise. Some draw what they do, so each is tried a few times."""
    for spec in specs:
        transform = _transform(spec)
        name = next(iter(spec)) if isinstance(spec, dict) else spec
        for size in dict.fromkeys(sizes):
            drawn = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (size, size, channels)).astype(dtype)
            for number in range(8):
                transform.p = float(name != "OneOrOther" or number % 2)  # whose p chooses between them
                refuse_other_pictures(made_by(transform, drawn.copy(), name), drawn, name)


def made_by(transform: Any, image: np.ndarray, name: str) -> Any:
    """What comes of an image. UserError where the transform fails on it."""
    try:
        return transform(image=np.ascontiguousarray(image))["image"]
    except Exception as error:  # whatever a transform makes of a picture that it was not made for
        height, width, channels = image.shape
        raise UserError(
            f"augment.albumentations: {name} fails on {height} x {width} pictures of {channels} channels of "
            f"{image.dtype} ({' '.join(str(error).split())[:160]}); change its arguments or leave it out"
        ) from None


def refuse_other_pictures(made: Any, image: np.ndarray, name: str) -> None:
    """UserError unless `made` is of the kind and size of `image`."""
    if isinstance(made, np.ndarray) and made.dtype == image.dtype and made.shape == image.shape:
        return
    kind = f"{' x '.join(map(str, made.shape))} of {made.dtype}" if hasattr(made, "dtype") else type(made).__name__
    crops = f"cut with augment.crop_area=, or put {{Resize: {{height: {image.shape[0]}, width: {image.shape[1]}}}}} "
    crops += "into one Sequential behind it"
    cure = INSTEAD.get(name, crops if np.ndim(made) >= 2 and made.shape[:2] != image.shape[:2] else "leave it out")
    wanted = " x ".join(map(str, image.shape))
    raise UserError(f"augment.albumentations: {name} makes {kind} of a picture of {wanted} of {image.dtype}; {cure}")
