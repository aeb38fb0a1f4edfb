"""The `netwright` program: collects the commands and turns errors into one clear line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

import typer

from netwright.errors import NetwrightError, from_os_error

#: What a malformed command line raises. Whether Typer carries its own copy of click depends on its version:
#: the class is taken from what it raises.
_CLICK_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

#: One module per family of commands; each has `register(app)`.
COMMANDS = ("shape", "structure", "pruning", "elastic", "listing", "measure", "data", "papers", "bench")


def build() -> typer.Typer:
    """Build the Typer application with all commands."""
    app = typer.Typer(
        name="netwright",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Right-sized neural networks: pruned, searched, quantised, measured, exported, explained.",
    )

    @app.callback()
    def options(
        debug: bool = typer.Option(False, "--debug", help="Show the full traceback of an error."),
    ) -> None:
        if debug:
            os.environ["NETWRIGHT_DEBUG"] = "1"

    for name in COMMANDS:
        importlib.import_module(f"netwright.cli.{name}").register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; never shows a traceback unless `--debug` (anywhere) or NETWRIGHT_DEBUG asks for
    it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or bool(os.environ.get("NETWRIGHT_DEBUG"))
    given = [a for a in given if a != "--debug"]
    try:
        command = typer.main.get_command(build())
        code = command.main(args=given, prog_name="netwright", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except NetwrightError as error:
        if debug:
            raise
        _fail(error)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("netwright: stopped; the same command resumes where it was", file=sys.stderr)
        sys.exit(130)
    except _CLICK_ERROR as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        print(f"netwright: {_one_line(text)}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if debug:
            raise
        _fail(from_os_error(error, f"working on {error.filename}" if error.filename else "writing"))
    except Exception as error:
        if debug:
            raise
        print(
            f"netwright: internal error: {type(error).__name__}: {_one_line(str(error))} "
            "— run again with --debug and report it",
            file=sys.stderr,
        )
        sys.exit(1)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _fail(error: NetwrightError) -> None:
    print(f"netwright: {_one_line(str(error))}", file=sys.stderr)
    sys.exit(error.exit_code)
