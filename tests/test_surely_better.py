"""Whether scores are better on nearly every image: boxes of one image do not count one by one."""

import numpy as np
import numpy.typing as npt
import pytest

from onchip.measure.diagnose import FEW, SURE, surely_better

Scores = list[npt.NDArray[np.float64]]


def scores(images: int, boxes: int, seed: int = 0) -> Scores:
    random = np.random.default_rng(seed)
    return list(random.uniform(0.2, 0.8, (images, boxes)))


def test_a_little_better_on_every_image_is_sure() -> None:
    now = scores(24, 4)
    noise = np.random.default_rng(1).normal(0.01, 0.01, (24, 4))
    then = [s + n for s, n in zip(now, noise, strict=True)]
    assert surely_better(now, then) > SURE
    assert surely_better(then, now) == pytest.approx(-surely_better(now, then))


def test_much_better_on_one_image_is_not() -> None:
    now = scores(24, 4)
    then = [s + 0.19 * (number == 3) for number, s in enumerate(now)]
    assert 0 < surely_better(now, then) < SURE


def test_what_is_seen_twice_is_not_more_certain() -> None:
    now = scores(24, 3)
    noise = np.random.default_rng(2).normal(0.005, 0.04, (24, 3))
    then = [s + n for s, n in zip(now, noise, strict=True)]
    doubled = [np.tile(s, 2) for s in now], [np.tile(s, 2) for s in then]
    assert surely_better(*doubled) == pytest.approx(surely_better(now, then))


def test_few_images_and_images_without_boxes_tell_nothing() -> None:
    now = scores(FEW - 1, 4)
    better = [s + 0.1 for s in now]
    assert surely_better(now, better) == 0
    empty: Scores = [np.zeros(0)] * 20
    assert surely_better([*now, *empty], [*better, *empty]) == 0


def test_scores_of_nothing_and_of_all_are_finite() -> None:
    now, then = [np.zeros(2)] * 20, [np.ones(2)] * 20
    assert np.isfinite(surely_better(now, then))


def test_images_without_any_box_are_no_error() -> None:
    empty: Scores = [np.zeros(0)] * 20
    assert surely_better(empty, empty) == 0
