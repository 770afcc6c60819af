"""Temporary."""

from types import SimpleNamespace


def survey_pixels(root, paths, most=64):
    return SimpleNamespace(channels=3, samples="uint8", range=None, why=[])
