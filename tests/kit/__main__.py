"""
The conformance kit: what of the fault list F01 to F40 can be seen from outside, against any OpenAI-compatible gateway.

    python -m tests.kit --target http://127.0.0.1:9000 --upstream-port 18080

The kit is the model server on that port and the client of the target; the gateway has to be configured to send the
model `devstral` to http://127.0.0.1:18080 (or .../v1), and needs nothing else. A row is one claim:

    ok         it holds           fails     it does not; what was seen stands behind it
    info       may be wanted      n/a       the gateway does nothing that the claim could be about
    not run    it did not serve any more, or the time was over

Exit code: 0 when no row fails, 1 when one does, 2 when the gateway does not answer at all.

Reading order: verdict, sse, client, answers, pages, model, rig, row, rows/*, catalogue, run, table, peers.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kit import table
from tests.kit.catalogue import chosen
from tests.kit.client import Target
from tests.kit.model import Model
from tests.kit.rig import Ending, Rig
from tests.kit.run import run, wait_until_it_serves
from tests.kit.verdict import Verdict

_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kit", description=__doc__.strip().partition("\n")[0])
    parser.add_argument("--target", required=True, type=Target.at, help="the gateway, with or without /v1")
    parser.add_argument(
        "--upstream-port",
        type=int,
        action="append",
        help="where the gateway expects its model server (18080); twice for the rows about two of them",
    )
    parser.add_argument("--only", default="", help="rows by their ids: F01,F09a")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--model", default="devstral", help="the model's name at the gateway (devstral)")
    parser.add_argument("--api-key", default="", help="a key that the gateway wants")
    parser.add_argument("--pid", type=int, help="the gateway's process: it gets SIGTERM in the last row")
    parser.add_argument("--silence-s", type=float, default=17.0, help="how long row F12 is silent (17)")
    parser.add_argument("--ready-s", type=float, default=30.0, help="how long to wait for a first answer (30)")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_main(options))
    except ValueError as exc:
        parser.error(str(exc))
    except OSError as exc:
        parser.error(f"the model server cannot listen: {exc.strerror or exc}")


async def _main(options: argparse.Namespace) -> int:
    rows = chosen(options.only.split(","))
    async with Model(options.upstream_port or [18080]) as model, Model() as other:
        rig = Rig(
            options.target,
            model,
            other,
            name=options.model,
            api_key=options.api_key,
            silence_s=options.silence_s,
            ending=_ending(options.pid) if options.pid else None,
        )
        if not await wait_until_it_serves(rig, options.ready_s):
            print(await why_not(rig), file=sys.stderr)
            return _USAGE
        results = await run(rig, rows, lambda result: print(table.line(result), flush=True))
    print(table.summary(results))
    if options.json:
        options.json.write_text(json.dumps([result.fields() for result in results], indent=1) + "\n")
    return int(any(result.verdict is Verdict.FAILS for result in results))


async def why_not(rig: Rig) -> str:
    """Return what a plain question comes to, for people."""
    play = rig.play()
    try:
        answer = await rig.whole(play)
        seen = f"status {answer.status}: {(await answer.read())[:300].decode(errors='replace')}"
    except Exception as exc:  # whatever it is, it is the answer
        seen = str(exc)
    arrived = "it reached the model server" if play.calls else f"nothing reached the model server at {rig.model.url}"
    return f"The gateway does not serve: {seen}\n({arrived}, which it has to use for the model {rig.name})"


def _ending(pid: int) -> Ending:
    async def ended() -> None:
        while _is_running(pid):  # noqa: ASYNC110 - of a process that is not ours there is no event
            await asyncio.sleep(0.05)

    return Ending(lambda: os.kill(pid, signal.SIGTERM), ended)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
