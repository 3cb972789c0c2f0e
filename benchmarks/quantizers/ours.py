"""onchip's own plan, on the CPU and in Rockchip's simulator."""

from dataclasses import replace

import msgspec

from onchip.build import Options, compile_, optimize
from onchip.quantize.plan import QuantPlan
from onchip.targets import target as targets
from quantizers.network import Made, Network


def quantize(network: Network, target: str = "cpu", options: Options | None = None) -> Made:
    """Plan and compile what was parsed."""
    manifest = msgspec.structs.replace(network.artifact.manifest, target=target)
    parsed = replace(network.artifact, manifest=manifest)
    planned = optimize(parsed, network.photos, options=options)
    made = compile_(planned, network.photos, options=options)
    plan = msgspec.json.decode(made.payload("plan"), type=QuantPlan)
    assert made.manifest.program_input is not None
    return Made(
        made.payload("program"),
        made.manifest.payloads["program"].file.rpartition(".")[2],
        made.manifest.program_input,
        lambda: targets.get(target).open(made, 1),
        len(plan.floats) + len(plan.wide),
        len(plan.layers),
    )
