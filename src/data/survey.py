"""What pixels a competition brings: looked up in a few of its training pictures, as the keys that read them well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from src.archives import read_files, shown
from src.data.look import Look, look_at
from src.data.samples import Alpha, Range
from src.errors import MissingPackage, UserError, counted

DRAWN = 4096  # numbers of each file that the range is measured on
ENDS = (0.1, 99.9)  # percentiles of all numbers drawn, between which they are taken to lie
MARGIN = 0.1  # of the distance between them, added at both ends: other pictures may go further


@dataclass(frozen=True)
class PixelSurvey:
    """Values for the keys of these names in the section `competition`, and one sentence for each decision."""

    channels: int
    samples: Literal["uint8", "uint16"]
    range: Range | None
    alpha: Alpha
    dicom: Literal["window", "full"]
    array: str | None
    why: list[str]


def survey_pixels(
    root: str | Path, paths: Sequence[bytes], most: int = 64, max_megapixels: float = 100.0
) -> PixelSurvey:
    """Look at up to `most` of the images `paths` (utf-8, see src/archives.py), evenly spread, as they are stored.

    8-bit pictures come out as the defaults: three channels, grey or not, which pretrained weights expect. Files of the
    rarer kinds are left out of account where several kinds are mixed. Raises the first image's UserError if none can be
    read, MissingPackage if a package has to be installed first.
    """
    rows = np.unique(np.linspace(0, max(0, len(paths) - 1), min(len(paths), most)).astype(int)).tolist()
    looks: list[list[Look]] = []
    errors: list[UserError] = []
    for row in rows:
        path = bytes(paths[row])
        try:
            names = shown(root, path).split("\n")
            files = read_files(root, path)
            looks.append([look_at(data, max_megapixels, name) for data, name in zip(files, names, strict=True)])
        except MissingPackage:
            raise
        except UserError as error:
            errors.append(error)
    if not looks:
        raise errors[0] if errors else UserError(f"{root}: no pictures to look at")
    why = [f"{len(errors)} of {len(rows)} pictures cannot be read, the first: {errors[0]}"] if errors else []

    per_image = Counter(map(len, looks)).most_common(1)[0][0]
    files_seen = [look for each in looks if len(each) == per_image for look in each]
    kind = Counter(look.kind for look in files_seen).most_common(1)[0][0]
    seen = [look for look in files_seen if look.kind == kind]
    if len(seen) < len(files_seen):
        why.append(f"{len(seen)} of {len(files_seen)} files are of one kind ({kind}); the others do not count here")
    count = f"{len(looks)} pictures of the training rows"
    samples, span, dicom = _values(seen, kind, count, why)
    alpha = _alpha(seen, why)
    channels = _channels(seen, per_image, samples, why)
    array = Counter(look.named for look in seen).most_common(1)[0][0]
    if array is not None:
        why.append(f"the .npz files hold several arrays; {array!r} is taken for the picture")
    return PixelSurvey(channels, samples, span, alpha, dicom, array, why)


def _values(
    seen: list[Look], kind: str, count: str, why: list[str]
) -> tuple[Literal["uint8", "uint16"], Range | None, Literal["window", "full"]]:
    """The keys samples, range and dicom."""
    if kind == "dicom":
        inverted = sum(look.inverted for look in seen)
        if inverted:
            why.append(f"DICOM: {inverted} of {len(seen)} are MONOCHROME1 and are inverted")
        windows = sum(look.windowed for look in seen)
        samples: Literal["uint8", "uint16"] = "uint16" if max(look.bits for look in seen) > 8 else "uint8"
        if windows == len(seen):
            why.append(f"DICOM of {max(look.bits for look in seen)} bits: the window of each header is used")
            return samples, None, "window"
        why.append(f"DICOM: {len(seen) - windows} of {len(seen)} have no window, so all are read by one range")
        grey = [look for look in seen if look.grey]
        return samples, _measured(grey, count, why) if samples == "uint16" else None, "full"
    types = {look.numbers.dtype for look in seen}
    if all(each in (np.uint8, np.bool_) for each in types):
        return "uint8", None, "window"
    span = _measured(seen, count, why)
    whole = all(bool((drawn == np.round(drawn)).all()) for drawn in map(_drawn, seen))
    return ("uint8" if span == (0.0, 255.0) and whole else "uint16"), span, "window"


def _measured(seen: list[Look], count: str, why: list[str]) -> Range | None:
    """Which numbers are black and white: what fits all pictures alike, not each its own."""
    drawn = [_drawn(look) for look in seen]
    pool = np.concatenate(drawn)
    integers = all(look.numbers.dtype.kind in "ui" for look in seen) or bool((pool == np.round(pool)).all())
    if not pool.size:
        why.append(f"no finite numbers in {count}: no range")
        return None
    finite = [look.numbers[np.isfinite(look.numbers)] for look in seen]
    most = max(float(numbers.max()) for numbers in finite if numbers.size)
    least = min(float(numbers.min()) for numbers in finite if numbers.size)
    low, high = (float(value) for value in np.percentile(pool, ENDS))
    if not high > low:
        why.append(f"all numbers are {low:g} in {count}: no range")
        return None
    if integers and least >= 0:
        bits = max(8, int(most).bit_length())
        full = float(2**bits - 1)
        if high >= full / 4:
            stored = max(look.numbers.dtype.itemsize for look in seen) * 8
            if bits >= 16 and stored == 16:
                why.append(f"16 bits, used up to {most:.0f} in {count}: by their type's range")
                return None
            why.append(f"{bits} bits in {max(stored, bits)}: values up to {most:.0f} in {count}")
            return 0.0, full
    elif least >= 0:
        for full, words in ((1.0, "shares"), (255.0, "8-bit levels"), (65535.0, "16-bit levels")):
            if most <= full and high >= full / 4:
                why.append(f"numbers from {least:g} to {most:g} in {count}: {words} as floats")
                return 0.0, full
    reach = MARGIN * (high - low)
    span = (max(low - reach, least), min(high + reach, most))
    if least >= 0 and span[0] < 0.05 * span[1]:
        span = (0.0, span[1])
    span = (_rounded(span[0], np.floor), _rounded(span[1], np.ceil))
    why.append(
        f"values from {least:.6g} to {most:.6g}, 99.8% of them from {low:.6g} to {high:.6g}, in {count}: "
        f"{span[0]:g} becomes black, {span[1]:g} white"
    )
    return span


def _drawn(look: Look) -> np.ndarray:
    """Up to DRAWN finite numbers of a file, evenly spread, without its alpha; float64."""
    numbers = (look.numbers[..., :-1] if look.alpha else look.numbers).reshape(-1)
    some = numbers[np.unique(np.linspace(0, numbers.size - 1, min(numbers.size, DRAWN)).astype(int))]
    some = some.astype(np.float64)
    return some[np.isfinite(some)]


def _rounded(value: float, towards: np.ufunc) -> float:
    """To three significant digits, outwards."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (np.floor(np.log10(abs(value))) - 2)
    return float(f"{towards(value / unit) * unit:.6g}")


def _alpha(seen: list[Look], why: list[str]) -> Alpha:
    """Colours under a transparent pixel may be the picture or nothing at all."""
    with_alpha = [look for look in seen if look.alpha]
    if not with_alpha:
        return "drop"
    hidden, visible, clear = [], [], 0.0
    for look in with_alpha:
        full = float(np.iinfo(look.numbers.dtype).max) if look.numbers.dtype.kind in "ui" else 1.0
        opacity = look.numbers[..., -1] / full
        luma = look.numbers[..., :-1].mean(axis=2) / full
        hidden.append(luma[opacity < 0.05])
        visible.append(luma[opacity > 0.95])
        clear += float((opacity < 0.5).mean()) / len(with_alpha)
    here = f"{len(with_alpha)} of {len(seen)} pictures have alpha"
    under, over = np.concatenate(hidden), np.concatenate(visible)
    if clear < 0.01:
        why.append(f"{here}, opaque in {1 - clear:.1%} of their area: it is dropped")
        return "drop"
    if len(under) and float(under.std()) > 0.05:
        why.append(f"{here}, transparent in {clear:.0%}, with colours below: alpha is dropped, the colours stay")
        return "drop"
    ground: Alpha = "black" if len(over) and float(over.mean()) > 0.5 else "white"
    why.append(f"{here}, transparent in {clear:.0%}, with nothing below: laid over {ground}")
    return ground


def _channels(seen: list[Look], per_image: int, samples: str, why: list[str]) -> int:
    bands = Counter(look.numbers.shape[2] - look.alpha for look in seen)
    most, of_most = bands.most_common(1)[0]
    kind, grey = seen[0].kind, all(look.grey for look in seen)
    if of_most < len(seen) and max(bands) > 3:
        why.append(f"{len(seen) - of_most} of {len(seen)} files have another number of channels than {most}")
    if per_image > 1:
        own = 1 if grey else 3 if kind != "array" and max(bands) <= 3 else most
        why.append(f"{per_image} files to an image, {'the luma' if own == 1 else f'{own} channels'} of each")
        return per_image * own
    if kind == "array":
        if not all(look.bands_known for look in seen):
            why.append("arrays with a first axis as long as their last: the last is taken for the channels")
        why.append(f"arrays of {counted(most, 'channel')}")
        return most
    if max(bands) <= 3 and 2 not in bands:
        if not grey:
            why.append("colour: three channels" + (" of 8 bits, as they are" if samples == "uint8" else ""))
            return 3
        if samples == "uint8" and kind == "picture":
            why.append(
                "grey pictures of 8 bits are read as RGB, which pretrained weights expect (channels: 1 works too)"
            )
            return 3
        why.append("grey: one channel, for which the first filters of pretrained weights are summed")
        return 1
    why.append(f"{most} bands in each file")
    return most
