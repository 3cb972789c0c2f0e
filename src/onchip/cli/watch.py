"""watch."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from onchip.cli.options import PASSWORD, as_json, command
from onchip.cli.output import print_json, print_new_link, print_text
from onchip.cli.stopping import Stop, stopping
from onchip.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onchip.watch.config import Camera, Config
    from onchip.watch.serve import Server, Wanted
    from onchip.watch.values import Event, PartState, WatchState
    from onchip.watch.watch import Watch

EVERY = 5.0  # seconds between two states for --json
REFRESH = 1.0  # seconds between two tables
SHOWN = 8  # events under the table
STYLES = {"ok": "green", "starting": "yellow", "failing": "red"}


@command("onchip watch cameras.toml")
@click.argument("file", type=Path)
@click.option("--check", is_flag=True, help="Only read the file and open the model.")
@click.option("--no-page", is_flag=True, help="Serve no page.")
@as_json
def watch_verb(file: Path, check: bool, no_page: bool, as_json: bool) -> None:
    """Watch the cameras of FILE: one model, one chip, events with pictures and clips, a page.

    On a terminal a table shows how all is; elsewhere a line says what happens. With --json one
    object every few seconds. Ctrl-C ends it; what was recorded is saved.
    """
    from onchip.watch.config import read

    config = read(file)
    page = None if no_page else _wanted(config)
    if check:
        _check(config, page, as_json)
        return
    from onchip.watch.watch import Watch

    with stopping() as stop, ExitStack() as held:
        watch = held.enter_context(Watch(config))
        server = None
        if page is not None:
            server = held.enter_context(_serve(watch, page))
        if stop():
            return
        watch.start()
        if server is not None:
            server.start()
        if as_json:
            _as_json(watch, stop)
        else:
            _as_text(watch, server, stop)


def _as_json(watch: "Watch", stop: Stop) -> None:
    while not stop():
        print_json(msgspec.to_builtins(watch.state()))
        stop.wait(EVERY)


def _as_text(watch: "Watch", server: "Server | None", stop: Stop) -> None:
    print_text(_began(watch, server))
    if sys.stderr.isatty():
        _as_table(watch, stop)
        return
    watch.subscribe(partial(_say, stop))
    for health in (watch.health, watch.cameras_health):
        health.on_change.append(_teller())
    stop.wait()


def _as_table(watch: "Watch", stop: Stop) -> None:
    from rich.console import Console
    from rich.live import Live

    lines: deque[str] = deque(maxlen=SHOWN)
    watch.subscribe(lambda event, kind: lines.append(line(event)) if kind != "update" else None)
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        while not stop():
            live.update(table(watch.state(), tuple(lines)), refresh=True)
            stop.wait(REFRESH)


def _began(watch: "Watch", server: "Server | None") -> str:
    count = len(watch.config.cameras)
    cameras = "1 camera" if count == 1 else f"{count} cameras"
    said = [f"Watching {cameras} with {watch.config.model.name}, events go to {watch.config.data}"]
    if server is not None:
        from onchip.web.listen import tunnel

        said.append(f"The page is at  {server.url}")
        ssh = tunnel(server.port, os.environ) if server.door.local else ""
        if ssh:
            said += ["From your own machine, first run there, then open it:", f"  {ssh}"]
    return "\n".join([*said, "Ctrl-C ends it; what was recorded is saved."])


def _say(stop: Stop, event: "Event", kind: str) -> None:
    if kind == "update":
        return
    try:
        print_text(line(event))
    except OSError:  # the reader of a pipe left, as `head` does
        stop.set()


def _teller() -> "Callable[[PartState], None]":
    """Return what says how parts are, once: not again after each try that failed as the last."""
    known: dict[str, str] = {}

    def tell(part: "PartState") -> None:
        said = ": ".join(text for text in (part.name, part.state, part.message) if text)
        if known.get(part.name) == said:
            return
        known[part.name] = said
        hint = f" ({part.hint})" if part.hint else ""
        with suppress(OSError):
            sys.stderr.write(f"{said}{hint}\n")
            sys.stderr.flush()

    return tell


def line(event: "Event") -> str:
    """Say in one line what an event is."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.start))
    zones = f" in {', '.join(event.zones)}" if event.zones else ""
    end = f", {event.end - event.start:.0f} s, {event.why}" if event.end is not None else ""
    return f"{at}  {event.camera}: {event.label} {event.score:.2f}{zones}{end}"


def table(state: "WatchState", lines: tuple[str, ...]) -> "RenderableType":
    """Return what a terminal shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table("camera", "", "comes", "looked at", "age, worst", "", "objects", box=None)
    for camera in state.cameras:
        middle, worst = camera.age_ms
        rows.add_row(
            camera.name, _state(camera.part), f"{camera.fps:.1f}/s",
            f"{camera.detect_fps:.1f} of {camera.wanted_fps:g}/s", f"{middle:.0f}, {worst:.0f} ms",
            "motion" if camera.motion else "", str(camera.objects),
        )  # fmt: skip
    parts = Table(box=None, show_header=False)
    for part in state.parts:
        parts.add_row(part.name, _state(part))
    load = (
        f"{state.model} on {state.chip}: {state.chip_ms:.0f} ms, {state.chip_fps:.1f}/s, "
        f"{state.load:.0%} busy; processor {state.processor:.0%} busy; limited by: {state.limit}"
    )
    stored = f"{state.events} events, {state.stored_bytes / 1e9:.2f} GB"
    return Group(rows, parts, Text(load), Text(stored), *map(Text, lines))


def _state(part: "PartState") -> "RenderableType":
    from rich.text import Text

    return Text(f"{part.state} {part.message}".strip(), STYLES[part.state])


def _wanted(config: "Config") -> "Wanted":
    """Return where the page is served.

    Raises:
        InputError: others can reach it, and there is no good password.
    """
    from onchip.watch.serve import Wanted
    from onchip.web.door import Door, read_password

    page = config.page
    password = os.environ.get(PASSWORD) or None
    if page.password_file is not None:
        password = read_password(page.password_file)
    try:
        Door(page.host, password)  # what is wrong is said before anything is opened
    except InputError as error:
        hint = f"name a file with one: [page] password_file = …, or set {PASSWORD}"
        raise InputError(f"{config.path}, [page]: {error}", hint) from error
    return Wanted(page.host, page.port, password, page.names, config.data)


def _serve(watch: "Watch", page: "Wanted") -> "Server":
    from onchip.watch.serve import Server

    return Server(watch, page, print_new_link)


def _check(config: "Config", page: "Wanted | None", as_json: bool) -> None:
    """Open the model, and print what a watch would do."""
    from onchip.watch.chip import named
    from onchip.watch.config import check_labels
    from onchip.watch.watch import open_model

    sight = open_model(config)
    try:
        check_labels(config, sight.labels)
        chip, count = named(sight), len(sight.labels)
    finally:
        sight.close()
    found: dict[str, object] = {
        "model": config.model.name, "chip": chip, "labels": count, "data": str(config.data),
        "keep": msgspec.to_builtins(config.keep),
        "broker": f"{config.mqtt.host}:{config.mqtt.port}" if config.mqtt else None,
        "page": f"{page.host}:{page.port}" if page is not None else None,
        "cameras": [_planned(camera) for camera in config.cameras],
    }  # fmt: skip
    if as_json:
        print_json(found)
    else:
        print_text(_plan(config, found))


def _planned(camera: "Camera") -> dict[str, object]:
    """Return what is done with one camera; its password is masked."""
    from onchip.watch.config import where

    clip, motion = camera.clip, camera.motion
    return {
        "name": camera.name, "address": where(camera).shown, "fps": camera.fps,
        "objects": list(camera.objects),
        "zones": {name: list(zone.objects) for name, zone in camera.zones.items()},
        "motion": motion.sensitivity if motion is not None else None,
        "clip": [clip.before, clip.after] if clip is not None else None,
    }  # fmt: skip


def _plan(config: "Config", found: Mapping[str, object]) -> str:
    """Say the same as `_check`'s JSON to people."""
    keep = config.keep
    lines = [f"{config.model.name} on {found['chip']}, {found['labels']} labels"]
    for camera in config.cameras:
        plan = _planned(camera)
        when = "while something moves" if camera.motion is not None else "always"
        what = ", ".join(camera.objects) or "all objects"
        zones = f"; zones {', '.join(camera.zones)}" if camera.zones else ""
        clip = camera.clip
        video = f"clips with {clip.before:g} s before, {clip.after:g} after" if clip else "no clips"
        lines += [
            f"{camera.name}: {plan['address']}",
            f"  looked at {camera.fps:g} times a second {when}; {what}{zones}; {video}",
        ]
    lines.append(f"events in {config.data}, for {keep.days:g} days and up to {keep.gigabytes:g} GB")
    lines.append(f"broker: {found['broker'] or 'none'}; page: {found['page'] or 'none'}")
    return "\n".join(lines)
