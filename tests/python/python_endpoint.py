"""Runs a Python endpoint in the foreground, as `proxystore-endpoint start NAME --no-detach` does, but without the
check of the network's NAT that an endpoint with a relay makes: it asks public servers."""

from __future__ import annotations

import logging
import sys

from proxystore.endpoint import commands, serve


async def check_nothing() -> None:
    """Stands in for the NAT check."""


if __name__ == '__main__':
    serve.check_nat_and_log = check_nothing
    logging.basicConfig(level='INFO', stream=sys.stderr)
    sys.exit(commands.start_endpoint(sys.argv[1], detach=False))
