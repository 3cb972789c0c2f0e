"""From a float network to a plan, on one page: each step is left out where the recipe has it not.

The network is rewritten into one that loses less, watched on all images, and carried back on a few;
ranges compete; what strays too far is raised; weights make up for what is rounded.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from msgspec import structs
from threadpoolctl import ThreadpoolController

from onchip.graph.read import Model
from onchip.graph.run import Array
from onchip.progress import Progress, silent
from onchip.quantize import names, sound
from onchip.quantize.harm import Wish, asked, cotangents, influences
from onchip.quantize.influence import Influence
from onchip.quantize.observe import Maker, observe
from onchip.quantize.plan import QuantPlan, make_plan
from onchip.quantize.precision import Precision, Search
from onchip.quantize.probes import Probes
from onchip.quantize.recipe import Recipe
from onchip.quantize.regions import Regions, divide
from onchip.quantize.rewrite import Rewriting, rewritten
from onchip.quantize.settle import settle
from onchip.quantize.stats import Stats
from onchip.quantize.tune import Effort, Tuned, tune
from onchip.sampling import some
from onchip.spec import HeadSpec, InputSpec, QuantSpec, Verdict

PROBES = 3  # images on which layers are raised
REMEMBERED = 16  # images that are read once, though looked at several times
SURE = 16  # images, from which on scale is moved between channels: few tell how wide those are
SETTLING = 16  # on which plans are compared
KEPT = "kept in float by the user"


@dataclass(frozen=True)
class Work:
    """A network, the arithmetic that it is for, and the images that tell what it does.

    `used` says how many of the images could be read, once all were asked for. `floats` and `wide`
    are layers that the user raised, `probes` a few of the images. `refused` is told which images
    make NaN or infinite values, and where first.
    """

    model: Model
    head: HeadSpec
    spec: InputSpec
    quant: QuantSpec
    images: Sequence[Maker]
    used: Callable[[], int]
    probes: Probes
    floats: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    refused: Callable[[int, str], None] = lambda number, tensor: None


@dataclass(frozen=True)
class Optimized:
    """The network that the plan is of: the given one, or one that computes the same."""

    model: Model
    plan: QuantPlan
    loss: float
    verdicts: tuple[Verdict, ...]


def optimize(
    work: Work,
    recipe: Recipe,
    raised: Callable[[Search], Precision],
    progress: Progress = silent,
) -> Optimized:
    """Return the plan of a network.

    Args:
        work: what is to be planned.
        recipe: how.
        raised: decides which layers are to be raised.
        progress: is told how far it is.
    """
    work = replace(work, images=remembering(work.images))
    with ThreadpoolController().limit(limits=1, user_api="blas"):  # its own threads wait by turning
        return _optimized(work, recipe, raised, progress)


def _optimized(
    work: Work, recipe: Recipe, raised: Callable[[Search], Precision], progress: Progress
) -> Optimized:
    """Take the steps one after the other."""
    model, changes = rewritten(
        Rewriting(
            model=work.model,
            head=work.head,
            spec=work.spec,
            quant=work.quant,
            probes=work.probes,
            floats=work.floats,
            whole=(*work.floats, *work.wide),
            equalizes="equalize" in recipe and len(work.images) >= SURE,
            splits="split" in recipe,
        )
    )
    regions = divide(model, work.head, work.quant, work.floats)
    names.check((*work.floats, *work.wide), regions.layers)
    seen, wishes, work = _seen(work, recipe, model, regions, progress)
    used = work.used()

    @cache
    def feel() -> dict[str, Influence]:
        return _felt(model, regions, wishes, progress)

    felt = feel() if "ranges" in recipe else {}
    plan = make_plan(
        model,
        regions,
        seen,
        work.quant,
        work.spec,
        images=used,
        reasons=dict.fromkeys(work.floats, KEPT),
        wide=work.wide,
        felt=felt,
    )

    def fit(plan: QuantPlan) -> Tuned:
        return _tuned(work, recipe, model, plan, progress)

    search = Search(model, work.spec, seen, plan, work.probes.first(PROBES), felt, feel, fit)
    chosen = raised(search)
    tuned = chosen.tuned or fit(chosen.plan)
    plan, settled = _settled(work, recipe, model, chosen.plan, tuned)
    if felt:
        plan = structs.replace(plan, raising=search.tradeoff.steps())
    sound.check_plan(plan)
    said = (
        *changes,
        *_contested(plan),
        *settled,
        *chosen.verdicts,
        *sound.weights_said(regions.layers, model),
        *sound.activations_said(regions, seen),
        *sound.half_said(plan, regions, seen),
    )
    return Optimized(model, plan, chosen.loss, said)


def _seen(
    work: Work, recipe: Recipe, model: Model, regions: Regions, progress: Progress
) -> tuple[dict[str, Stats], list[Wish], Work]:
    """Watch the network on all images; those that make NaN or infinite values are left out.

    Also returns what counts in some of the images.
    """
    unsound: dict[int, str] = {}
    wishes: dict[int, Wish] = {}
    few = set(some(range(len(work.images)), recipe.felt))
    _, _, height, width = model.inputs[0].shape

    def wish(number: int, found: Mapping[str, Array]) -> None:
        if number in few:
            random = np.random.default_rng(number)
            given = cotangents(work.head, found, (width, height), random)
            wishes[number] = Wish.of(work.images[number], given)

    seen = observe(
        model,
        work.head,
        regions,
        work.images,
        progress=lambda done: progress("observe", done, len(work.images)),
        refused=unsound.__setitem__,
        results=wish,
    )
    for number, tensor in unsound.items():
        work.refused(number, tensor)
    sound_ones = [m for n, m in enumerate(work.images) if n not in unsound]
    return seen, [wishes[n] for n in sorted(wishes)], replace(work, images=sound_ones)


def _felt(
    model: Model, regions: Regions, wishes: Sequence[Wish], progress: Progress
) -> dict[str, Influence]:
    """Return what errors in each tensor do to the detections, felt on some of the images."""

    def each() -> Iterator[Wish]:
        for done, wish in enumerate(wishes):
            progress("gradients", done, len(wishes))
            yield wish
        progress("gradients", len(wishes), len(wishes))

    found, _ = influences(model, asked(model, regions), each())
    return found


def _contested(plan: QuantPlan) -> tuple[Verdict, ...]:
    """Say who won the ranges."""
    if not plan.contests:
        return ()
    won = Counter(c.winner for c in plan.contests).most_common()
    text = f"{len(plan.contests)} ranges were contested; won by " + ", ".join(
        f"{rule} {count}" for rule, count in won
    )
    return (Verdict(code="ranges_contested", message=text),)


def _tuned(work: Work, recipe: Recipe, model: Model, plan: QuantPlan, progress: Progress) -> Tuned:
    """Return the plan with weights fitted to it."""
    if "weights" not in recipe:
        return Tuned(plan, ())
    return tune(
        model,
        work.head,
        divide(model, work.head, plan.quant, plan.floats),
        plan,
        some(work.images, recipe.tuned),
        effort=Effort(places=recipe.places),
        progress=lambda done, of: progress("weights", done, of),
    )


def _settled(
    work: Work, recipe: Recipe, model: Model, before: QuantPlan, tuned: Tuned
) -> tuple[QuantPlan, tuple[Verdict, ...]]:
    """Return the plan with fitted weights, or the one before where that does less harm."""
    if not tuned.gains:
        return tuned.plan, ()
    was = statistics.median(g.before for g in tuned.gains)
    now = statistics.median(g.after for g in tuned.gains)
    text = (
        f"the weights of {len(tuned.gains)} layers make up for what was rounded before them: "
        f"their error falls from {was:.2%} to {now:.2%} (medians)"
    )
    fitted = Verdict(code="weights_fitted", message=text)
    if "settle" not in recipe:
        return tuned.plan, (fitted,)
    made = (make() for make in some(work.images, SETTLING))
    inputs = [x for x in made if x is not None]
    plans = {"before": before, "fitted": tuned.plan}
    best, harms = settle(model, work.head, plans, inputs)
    if best == "fitted":
        return tuned.plan, (fitted,)
    text = (
        "fitted weights were taken back: on calibration images they do more harm to the "
        f"detections ({harms['fitted']:.3g}, before {harms['before']:.3g})"
    )
    return before, (Verdict(code="weights_not_fitted", message=text),)


def remembering(images: Sequence[Maker]) -> Sequence[Maker]:
    """Return the images, some of which are kept in memory once they are made."""
    kept: dict[int, npt.NDArray[np.generic] | None] = {}

    def maker(number: int) -> Maker:
        def make() -> npt.NDArray[np.generic] | None:
            if number not in kept:
                kept[number] = images[number]()
            return kept[number]

        return make

    chosen = set(some(range(len(images)), REMEMBERED))
    return [maker(i) if i in chosen else images[i] for i in range(len(images))]
