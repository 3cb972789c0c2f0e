"""What can be said, and made, of a Hailo build without Hailo's software."""

from onchip.errors import ToolError
from onchip.quantize.plan import QuantPlan
from onchip.spec import Verdict
from onchip.targets.hailo import calibration, forecast, ops
from onchip.targets.hailo.names import predicted
from onchip.targets.hailo.options import HailoOptions
from onchip.targets.hailo.orders import Order, orders
from onchip.targets.hailo.script import NMS_FILE
from onchip.targets.target import Foresight, Job, Prepared, Task, unfinished
from onchip.toolchains.machine import gpus

SCRIPT_FILE = "model.alls"
_PAYLOADS = {SCRIPT_FILE: "script", NMS_FILE: "nms"}


def foresee(chip: str, task: Task, options: HailoOptions, plan: QuantPlan | None) -> Foresight:
    """Say where the compiler will end, what it will be told and do, and what will go wrong."""
    order = _first(chip, task, options, plan.images if plan else 0, plan)
    expected = forecast.forecast(forecast.measured(task.model), chip)
    told = Verdict(
        code="names_foretold",
        message="layers have the names that the compiler is expected to give them; a build takes "
        "them from the compiler itself",
    )
    return Foresight(
        start_nodes=(task.input.name,),
        end_nodes=order.ends,
        unsupported=tuple(x.describe() for x in ops.unsupported(task.model, chip)),
        forecast=expected.lines(),
        files=_files(task, order),
        verdicts=(
            *order.verdicts,
            *ops.limited(task.model, chip),
            *forecast.verdicts(expected),
            told,
        ),
    )


def prepared(chip: str, job: Job, options: HailoOptions, missing: ToolError) -> Prepared:
    """Make all that a machine with the compiler will want, and say what is missing here."""
    spec = calibration.taken(job.input, rgb=options.rgb)
    photos = calibration.packed(job, spec)
    count = sum(1 for _ in calibration.photos(job, spec))
    order = _first(chip, job, options, count, job.plan)
    few = f"; with -c photos/, for of the {count} photos only {calibration.MOST} are inside"
    extras = {_PAYLOADS[name]: (name, text.encode()) for name, text in _files(job, order).items()}
    return Prepared(
        missing=unfinished(str(missing), few if count > calibration.MOST else ""),
        verdicts=order.lasting,
        extras={**extras, **({calibration.PACKED: (calibration.FILE, photos)} if photos else {})},
    )


def _first(
    chip: str, task: Task, options: HailoOptions, count: int, plan: QuantPlan | None
) -> Order:
    gpu, wide = any(g.free for g in gpus()), plan.wide if plan else ()
    return orders(chip, task, options, count, gpu=gpu, wide=wide)[0]


def _files(task: Task, order: Order) -> dict[str, str]:
    """The files for the compiler, with the names that it is expected to give."""
    layers = predicted(task.model)
    found = {SCRIPT_FILE: order.script.text(layers)}
    if described := order.nms_file(layers):
        found[NMS_FILE] = described
    return found
