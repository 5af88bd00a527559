"""Do tool calls come back exactly, through the real server?

Each case (a question, tools, the right calls) is asked of a proxy on a real socket, whose upstream is a scripted sandbox: plain
and streamed, in every encoding, and again with a model that answers wrongly in one case of five.

    python -m benchmarks.fidelity_calls [--data DIR] [--limit N]
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from proxy.api.http.server import ServerConfig
from proxy.app import create_app
from proxy.logs import configure_logging
from proxy.sandbox import SANDBOX_DATA_PLANE, SandboxOptions, serve_sandbox
from proxy.settings import Settings, load_settings

Encoding = Literal["properties", "any_of", "text"]
Json = Any
ENCODINGS: tuple[Encoding, ...] = ("properties", "any_of", "text")
ROOT = Path(__file__).parents[1]
SHARED, OWN = ROOT.parent / "shared" / "data", ROOT / "tests" / "data"
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Case:
    """A question, the tools offered, and the calls that should come back."""

    id: str
    messages: list[Json]
    tools: list[Json]
    calls: list[Json]


@dataclass(frozen=True, slots=True)
class Score:
    """How the cases of one run came back."""

    label: str
    outcomes: Counter[str]
    wrong: tuple[str, ...]

    @property
    def exact(self) -> float:
        return self.outcomes["exact"] / max(self.outcomes.total(), 1)


def read_cases(folder: Path, limit: int | None = None) -> list[Case]:
    """The cases of `tool-calls.jsonl` in a folder."""
    lines = (folder / "tool-calls.jsonl").read_text("utf-8").rstrip("\n").split("\n")[:limit]
    return [Case(**json.loads(line)) for line in lines]


@asynccontextmanager
async def house(encoding: Encoding) -> AsyncIterator[str]:
    """A proxy on a real socket whose models use an encoding, in front of a sandbox; gives its URL."""
    options = SandboxOptions(pending_s=0, running_s=0, schema_keywords="full" if encoding == "any_of" else "documented")
    async with serve_sandbox(options) as sandbox:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as models:
            models.write(
                f'[[models]]\nid = "anthropic.claude-haiku-4.5"\nnames = ["m"]\nmax_tokens = 9999\ntool_encoding = "{encoding}"\n'
            )
            models.flush()
            settings = load_settings(
                {
                    "NARRATIVE_ENVIRONMENT": sandbox.url,
                    "NARRATIVE_API_KEY": "any",
                    "NARRATIVE_DATA_PLANE_ID": SANDBOX_DATA_PLANE,
                    "PROXY_CHAT__MODELS_FILE": models.name,
                    "PROXY_SERVER__PORT": "0",
                }
            )
            async with _served(create_app(settings), settings) as url:
                yield url


@asynccontextmanager
async def _served(app: Any, settings: Settings) -> AsyncIterator[str]:
    server = uvicorn.Server(ServerConfig(app, settings))
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


def _no_signals() -> Any:
    return tempfile.TemporaryDirectory()  # any context manager: signals stay the caller's


async def score(
    label: str, url: str, cases: list[Case], *, stream: bool, strict: bool = False, wrong_share: float = 0.0
) -> Score:
    """Ask all cases, a bounded number at once."""
    gate, outcomes, wrong = asyncio.Semaphore(_AT_ONCE), Counter[str](), list[str]()
    chance = random.Random(7)
    mistaken = [chance.random() < wrong_share for _ in cases]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def one(case: Case, mistake: bool) -> None:
            async with gate:
                outcome = await _ask(client, case, stream=stream, strict=strict, mistake=mistake)
            outcomes[outcome] += 1
            if outcome == "wrong":
                wrong.append(case.id)

        await asyncio.gather(*(one(case, mistake) for case, mistake in zip(cases, mistaken, strict=True)))
    return Score(label, outcomes, tuple(wrong))


async def _ask(client: httpx.AsyncClient, case: Case, *, stream: bool, strict: bool, mistake: bool) -> str:
    right = {"calls": [{"name": call["name"], "arguments": call["input"]} for call in case.calls]}
    bad = {"calls": [{"name": call["name"], "arguments": _spoilt(call["input"])} for call in case.calls]}
    directive = {
        "key": f"{case.id}/{stream}/{strict}/{time.monotonic_ns()}",
        "attempts": [bad, right] if mistake else [right],
    }
    messages = [*case.messages, {"role": "user", "content": f"[[sandbox {json.dumps(directive)}]]"}]
    tools = [{**tool, "function": {**tool["function"], "strict": strict}} for tool in case.tools]
    body = {"model": "m", "messages": messages, "tools": tools, "stream": stream}
    answer = await client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200 or '"error"' in answer.text[-2000:].split("data: ")[-1][:12]:
        return "error"
    message = _folded(answer.text) if stream else answer.json()["choices"][0]["message"]
    found = [
        {"name": call["function"]["name"], "input": json.loads(call["function"]["arguments"])}
        for call in message.get("tool_calls") or ()
    ]
    return "exact" if found == case.calls else "wrong"


def _spoilt(arguments: Json) -> Json:
    """Arguments as a model gets them wrong: a required one missing, a type that cannot be mended."""
    rest = list(arguments.items())[1:] if isinstance(arguments, dict) else []
    return {name: {"oops": [value]} for name, value in rest} or "oops"


def _folded(text: str) -> Json:
    state = ChatCompletionStreamState()
    for line in text.split("\n"):
        if line.startswith("data: {"):
            state.handle_chunk(ChatCompletionChunk.model_validate_json(line[6:]))
    return state.current_completion_snapshot.choices[0].message.model_dump()


async def measure(cases: list[Case]) -> list[Score]:
    """All runs."""
    scores = []
    for encoding in ENCODINGS:
        async with house(encoding) as url:
            for stream in (False, True):
                how = "streamed" if stream else "plain"
                scores.append(await score(f"{encoding}, {how}", url, cases, stream=stream))
                label = f"{encoding}, {how}, strict, 1 in 5 wrong at first"
                scores.append(await score(label, url, cases, stream=stream, strict=True, wrong_share=0.2))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED if SHARED.is_dir() else OWN)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    configure_logging("json", "error")
    cases = read_cases(options.data, options.limit)
    print(f"{len(cases)} tool-call cases from {options.data}")
    print(f"{'run':<50} {'exact':>8} {'wrong':>6} {'error':>6}")
    for result in asyncio.run(measure(cases)):
        wrong, error = result.outcomes["wrong"], result.outcomes["error"]
        print(f"{result.label:<50} {result.exact:>8.2%} {wrong:>6} {error:>6}  {' '.join(result.wrong[:5])}")


if __name__ == "__main__":
    main()
