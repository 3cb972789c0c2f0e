"""Find the verb, run it, and turn failures into one line and an exit code."""

import os
import sys
from importlib import import_module

import click

from onchip.cli import VERBS
from onchip.cli.output import print_error
from onchip.errors import InputError, OnchipError

INTERRUPTED = 130


class Verbs(click.Group):
    """Loads a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"onchip.cli.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_verb")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS:
            raise InputError(f"no verb called {args[0]!r}", f"allowed are {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb. It is no error when the reader of its output leaves, as `head` does."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own exit
            return 0


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    as_json = "--json" in arguments
    group = Verbs(name="onchip")
    try:
        result = group.main(arguments, prog_name="onchip", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"see: {context.command_path} --help" if context is not None else ""
        failure = InputError(error.format_message(), hint)
        return _fail(failure, as_json)
    except OnchipError as error:
        return _fail(error, as_json)
    except (KeyboardInterrupt, click.Abort):
        return _interrupted()
    except ImportError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return _interrupted()  # while a library was loading, which says it in its own way
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(InputError(f"{place}{error.strerror or error}"), as_json)
    except MemoryError:
        return _fail(InputError("this machine's memory is too small for that"), as_json)
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    sys.stderr.write("\ninterrupted; nothing was half-written\n")
    return INTERRUPTED


def _fail(error: OnchipError, as_json: bool) -> int:
    print_error(error, as_json)
    return error.exit_code
