"""annotate."""

import os
import shlex
import sys
from pathlib import Path

import click

from onchip.cli.options import PASSWORD, as_json, command, names
from onchip.cli.output import print_json, print_new_link, print_text


@command("onchip annotate photos/ --classes car,person")
@click.argument("photos", type=Path)
@click.option("--classes", help="Names for a new list of classes: a,b,c, or a file with lines.")
@click.option("--coco", type=Path, help="Keep the labels in this COCO JSON, not beside the photos.")
@click.option("--model", type=Path, help="An .onchip or .onnx that proposes boxes.")
@click.option("--conf", type=click.FloatRange(0.01, 0.99), default=0.25, show_default=True,
              help="The least score of a proposal.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0,
              help="Which port; by default the same one for the same folder.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Which address; others than this machine's own need a password.")  # fmt: skip
@click.option("--password-file", type=Path,
              help=f"The password stands in this file; or in {PASSWORD}.")  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@as_json
def annotate_verb(
    photos: Path, classes: str | None, coco: Path | None, model: Path | None, conf: float,
    port: int, host: str, password_file: Path | None, no_browser: bool, as_json: bool,
) -> None:  # fmt: skip
    """Draw boxes on PHOTOS, a folder or a data.yaml, in the browser. Ctrl-C ends it.

    Drag to draw, 0-9 choose the class, Space saves and goes on, Backspace removes the last box,
    Escape leaves without saving; ? shows the rest. Only this machine can open the page.
    """
    from onchip.annotate.serve import Server, Wanted
    from onchip.cli.stopping import stopping
    from onchip.web.listen import open_browser, tunnel

    wanted = Wanted(
        photos, names(classes), coco, model, conf, host, port,
        _password(host, password_file), shlex.join(["onchip", *sys.argv[1:]]),
    )  # fmt: skip
    with Server(wanted, print_new_link) as server, stopping(server.stop):
        ssh = tunnel(server.port, os.environ) if server.door.local else ""
        if as_json:
            count = sum(not p.fault for p in server.photos.all)
            print_json({"url": server.url, "port": server.port, "photos": count, "tunnel": ssh})
        else:
            print_text(_where(server.url, ssh, server.door.local))
        if not (no_browser or ssh or as_json):
            open_browser(server.url)
        server.run()


def _where(url: str, ssh: str, local: bool) -> str:
    lines = [f"Draw boxes at  {url}"]
    if not local:
        lines.append("Others can reach it; what they send, the password too, is not encrypted.")
    if ssh:
        lines += ["From your own machine, first run this there, then open the address:", f"  {ssh}"]
    return "\n".join([*lines, "Ctrl-C ends it; what was saved is saved."])


def _password(host: str, file: Path | None) -> str | None:
    """Return the password for others than this machine's own people; never from the command line.

    Raises:
        InputError: the file cannot be read.
    """
    from onchip.web.door import is_loopback, read_password

    if file is not None:
        return read_password(file)
    if is_loopback(host):
        return None
    if os.environ.get(PASSWORD):
        return os.environ[PASSWORD]
    if sys.stdin.isatty():
        return str(click.prompt("Password for the page", hide_input=True, err=True))
    return None
