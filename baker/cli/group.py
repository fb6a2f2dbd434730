"""baker: the command group around baker-opt."""

from __future__ import annotations

import click

from baker.cli.bench import bench
from baker.cli.golden import golden
from baker.cli.guard import launch
from baker.cli.inspect import inspect
from baker.cli.passes import passes
from baker.cli.reduce import reduce
from baker.cli.shell import EXITS, version_option
from baker.cli.verify import verify


@click.group(epilog=EXITS, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def group() -> None:
    """Look at ONNX models, judge and time one against another, and find out what went wrong.

    To optimize a model: baker-opt.
    """


for command in (verify, bench, reduce, inspect, passes, golden):
    group.add_command(command)


def main() -> None:
    """The console script."""
    launch(group, "baker")


if __name__ == "__main__":
    main()
