"""Recipes: which algorithms make a plan, and how much they may look at.

A recipe is a name, or a list: `balanced,-weights` is all of `balanced` but one, `split,ranges`
these two and nothing else.
"""

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from onchip.errors import InputError

ALGORITHMS: Mapping[str, str] = MappingProxyType(
    {
        "equalize": "scale is moved between channels, exactly",
        "split": "tensors of very wide and narrow channels get several scales, exactly",
        "ranges": "rules for a range compete by what each would do to the detections",
        "weights": "codes of weights make up for what was rounded before them",
        "settle": "what was foreseen is tried on images, and the better plan kept",
    }
)


class Recipe(Struct, frozen=True, kw_only=True):
    """What makes a plan. Of images, 0 is all."""

    name: str
    algorithms: tuple[str, ...]
    felt: int = 16  # images on which gradients are taken
    tuned: int = 16  # images that weights are fitted to
    places: int = 128  # of each image and map

    def __contains__(self, algorithm: str) -> bool:
        return algorithm in self.algorithms

    def describe(self) -> str:
        """The recipe and its algorithms, in a line."""
        return f"{self.name}: {', '.join(self.algorithms) or 'ranges by the error alone'}"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "fast": Recipe(name="fast", algorithms=("equalize", "split")),
        "balanced": Recipe(name="balanced", algorithms=("equalize", "split", "ranges", "weights")),
        "best": Recipe(name="best", algorithms=tuple(ALGORITHMS), felt=32, tuned=32),
    }
)
PLAIN = Recipe(name="plain", algorithms=())


def recipe(text: str) -> Recipe:
    """Return the recipe that a text names.

    >>> recipe("balanced,-weights").algorithms
    ('equalize', 'split', 'ranges')

    Raises:
        InputError: there is no recipe or algorithm of that name.
    """
    if text in RECIPES:
        return RECIPES[text]
    first, *others = text.split(",")
    found = RECIPES.get(first)
    chosen = list(found.algorithms) if found else []
    for word in others if found else [first, *others]:
        name = word.removeprefix("-")
        if name not in ALGORITHMS:
            raise InputError(
                f"there is no recipe or algorithm {name!r}",
                f"recipes are {', '.join(RECIPES)}; algorithms {', '.join(ALGORITHMS)}: "
                "balanced,-weights or split,ranges",
            )
        if word != name:
            chosen = [c for c in chosen if c != name]
        elif name not in chosen:
            chosen.append(name)
    ordered = tuple(a for a in ALGORITHMS if a in chosen)
    return replace(found or PLAIN, name=text, algorithms=ordered)
