"""The command line: one file per command; flags and help texts come from the dataclasses."""

import os
import sys
from collections.abc import Sequence

from ..errors import FastUnlearnError
from .analyse import Analyse
from .apply import Apply
from .compare import Compare
from .convert import Convert
from .delta import Delta
from .doctor import Doctor
from .evaluate import Evaluate
from .feedback import Feedback
from .fid import Fid
from .flags import parse_flags
from .inspect import Inspect
from .sample import Sample
from .train import Train
from .train_classifier import TrainClassifier
from .unlearn import Unlearn

COMMANDS = {
    "train": Train,
    "train-classifier": TrainClassifier,
    "sample": Sample,
    "feedback": Feedback,
    "unlearn": Unlearn,
    "evaluate": Evaluate,
    "compare": Compare,
    "analyse": Analyse,
    "fid": Fid,
    "delta": Delta,
    "apply": Apply,
    "convert": Convert,
    "inspect": Inspect,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did its work, 2 with one line on stderr when it could not."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise FastUnlearnError(f"unknown command '{name}'; the commands are {', '.join(COMMANDS)}")
        parse(name, rest).run()
        sys.stdout.flush()
    except FastUnlearnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def parse(name: str, arguments: list[str]) -> object:
    """The command's dataclass, filled from its flags."""
    command, prog = COMMANDS[name], f"fastunlearn {name}"
    return command.parse(arguments, prog) if hasattr(command, "parse") else parse_flags(command, prog, arguments)


def overview() -> str:
    """The commands with their first sentences."""
    lines = [f"  {name:18}{cls.__doc__.splitlines()[0]}" for name, cls in COMMANDS.items()]
    return "\n".join(
        ["usage: fastunlearn COMMAND [options]", "", *lines, "", "fastunlearn COMMAND --help shows the options."]
    )
