"""`python -m backend.demo`: runs the demo world, or flips its faults."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence

from backend.demo.faults import EVERY_FAULT
from backend.demo.remote import flip
from backend.demo.settings import InstancePorts, Settings, loopback
from backend.demo.world import PortTaken, World

# How soon the world follows a parent that died without a word.
PARENT_SECONDS = 1.0


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["fault"]:
        return flip(arguments[1:])
    options = _parser().parse_args(arguments)
    _allow_connections()
    try:
        with asyncio.Runner(loop_factory=_quickest_loop()) as runner:
            runner.run(_run(_settings(options), options.exit_with_parent))
    except PortTaken as error:
        print(f"backend.demo: {error}", file=sys.stderr)
        return 1
    return 0


def _quickest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Measured beside a gateway on the same machine, the world should take as little of it as it can."""
    try:
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m backend.demo",
        description="Play the avatar services on loopback ports: catalogue, manager, instances, chat model,"
        " retrieval.",
        epilog="To make a service fail: python -m backend.demo fault NAME [--service S] [--path P]"
        f" [--times N]; to stop: python -m backend.demo fault off. Faults: {', '.join(EVERY_FAULT)}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", type=_host, default=default.host, help="loopback address to listen on")
    for name in ("catalogue", "manager", "model", "retrieval", "control"):
        port = getattr(default, f"{name}_port")
        add(f"--{name}-port", type=_port, default=port, help=f"port of the {name}; 0: a free one")
    add(
        "--instance-ports",
        type=_instance_ports,
        default=default.instance_ports,
        metavar="FIRST-LAST",
        help="ports for avatar instances; auto: free ones",
    )
    add("--latency", type=_seconds, default=default.latency_seconds, help="seconds the slow work takes")
    add("--capacity", type=int, default=default.capacity, help="instances that may run at once")
    add("--max-sessions", type=int, default=default.max_sessions, help="sessions one instance takes")
    add("--list-form", action="store_true", help="answer the avatar list as names, as the older service did")
    add("--model-stays-open", action="store_true", help="never close a chat stream, as the older model did")
    add("--second", action="store_true", help="run catalogue and model at a second address each, too")
    add("--exit-with-parent", action="store_true", help="stop when the process that started this one is gone")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        host=options.host,
        catalogue_port=options.catalogue_port,
        manager_port=options.manager_port,
        model_port=options.model_port,
        retrieval_port=options.retrieval_port,
        control_port=options.control_port,
        instance_ports=options.instance_ports,
        latency_seconds=options.latency,
        capacity=options.capacity,
        max_sessions=options.max_sessions,
        list_form=options.list_form,
        model_stays_open=options.model_stays_open,
        second=options.second,
    )


def _allow_connections() -> None:
    """Raise the limit of open files as far as allowed: the usual 1,024 ends a load run of 1,000 users."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _run(settings: Settings, exit_with_parent: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:
        _watch_parent(loop, os.getppid(), stop)
    async with World(settings) as world:
        print(json.dumps(world.ready()), flush=True)
        await stop.wait()


def _watch_parent(loop: asyncio.AbstractEventLoop, parent: int, stop: asyncio.Event) -> None:
    if os.getppid() != parent:
        stop.set()
    else:
        loop.call_later(PARENT_SECONDS, _watch_parent, loop, parent, stop)


def _host(text: str) -> str:
    try:
        return loopback(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not a loopback address: the demo has no authentication, so it stays on this machine"
        ) from error


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port")
    return port


def _instance_ports(text: str) -> InstancePorts:
    try:
        return InstancePorts.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a range such as 8615-8714, or auto") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
