"""``recbole-prism VERB ...``, the same as ``python -m recbole_prism VERB ...``."""

from __future__ import annotations

import argparse
import importlib
import sys

from recbole_prism.command import guarded
from recbole_prism.errors import suggest
from recbole_prism.plugins import import_plugins
from recbole_prism.prepare import COMMANDS as PREPARE_COMMANDS
from recbole_prism.recommend import COMMANDS as RECOMMEND_COMMANDS
from recbole_prism.version import __version__

COMMANDS: dict[str, tuple[str, str]] = {  # verb: (what it does, module with add_arguments and main)
    "doctor": (
        "versions, what was mended in RecBole, devices, what is missing for which feature",
        "recbole_prism.doctor",
    ),
    "models": ("the backbones, what each supports, and which cannot be wrapped", "recbole_prism.models.listing"),
    **PREPARE_COMMANDS,
    **RECOMMEND_COMMANDS,
    "synthesize": ("sequences that depend on image and text in a known way", "recbole_prism.synthetic"),
    "pid": ("bits of the next item that two modalities tell alone, both or together", "recbole_prism.pid"),
    "compare": ("models x datasets x seeds x controls, with tests of significance", "recbole_prism.compare.command"),
    "tune": ("search hyper-parameters with Optuna, resumable", "recbole_prism.tune"),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="recbole-prism",
        description=_overview(),
        add_help=True,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"recbole-prism {__version__}")
    parser.add_argument("verb", metavar="VERB", help="see above; `recbole-prism VERB --help` tells more")
    verb = parser.parse_args(argv[:1]).verb
    if verb not in COMMANDS:
        parser.error(f"unknown verb {verb!r}{suggest(verb, COMMANDS)}; there are {', '.join(COMMANDS)}")
    summary, module_name = COMMANDS[verb]
    module = importlib.import_module(module_name)
    verb_parser = argparse.ArgumentParser(prog=f"recbole-prism {verb}", description=summary)
    verb_parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    module.add_arguments(verb_parser)
    arguments = verb_parser.parse_args(argv[1:])

    def work() -> int:
        import_plugins()
        return module.main(arguments)

    return guarded(work, debug=arguments.debug)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    return "Multimodal sequential recommendation for RecBole.\n\n" + "\n".join(
        f"  {verb:<{width}}  {summary}" for verb, (summary, _) in COMMANDS.items()
    )


if __name__ == "__main__":
    sys.exit(main())
