"""A small OpenAI-compatible server on this machine, whose replies a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from srlm.engines.base import Sampling
from srlm.engines.config import EndpointConfig
from srlm.engines.openai_server import EndpointEngine
from tests.helpers import user

KEY = "sk-not-to-be-shown"


@dataclass
class Raw:
    """A raw reply; a body of bytes is sent as is. `missing` bytes are announced and never sent."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    pause: float = 0.0  # seconds before each byte


class Server:
    """Answers /chat/completions with `reply(request)`; fails the first `broken` times.

    A reply is a JSON value, sent with status 200, or a `Raw`.
    """

    def __init__(self, reply):
        self.reply, self.requests, self.broken, self.headers, self.times = reply, [], 0, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.times.append(time.monotonic())
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                outer.requests.append(body)
                answer = Raw(500, {"error": {"message": "busy"}}) if outer.broken else outer.reply(body)
                outer.broken = max(outer.broken - 1, 0)
                raw = answer if isinstance(answer, Raw) else Raw(200, answer)
                data = raw.body if isinstance(raw.body, bytes) else json.dumps(raw.body).encode()
                self.send_response(raw.status)
                for name, value in ({"Content-Type": "application/json"} | raw.headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) + raw.missing))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client has timed out
                    for piece in [data] if not raw.pause else [data[n : n + 1] for n in range(len(data))]:
                        time.sleep(raw.pause)
                        self.wfile.write(piece)
                self.close_connection = bool(raw.missing)

            def log_message(self, *_): ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def completion(text: str, tokens=(), n: int = 1):
    """Return a server's answer; `tokens` has (token, {token: probability}) of each position."""
    content = [
        {
            "token": token,
            "logprob": 0.0,
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()],
        }
        for token, top in tokens
    ]
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "index": 0}
    if content:
        choice["logprobs"] = {"content": content}
    usage = {"prompt_tokens": 100, "completion_tokens": 10 * n, "total_tokens": 100 + 10 * n}
    usage["prompt_tokens_details"] = {"cached_tokens": 64}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice] * n, "usage": usage}


def asked(server, tmp_path, *jobs, **options):
    """Return the results of `jobs`, which are functions of an engine, and the engine."""
    config = EndpointConfig(**({"base_url": server.url, "model": "m", "retries": 2} | options))

    async def run():
        engine = EndpointEngine(config, tmp_path / "ledger.jsonl")
        try:
            return await asyncio.gather(*(job(engine) for job in jobs)), engine
        finally:
            await engine.close()

    return asyncio.run(run())


def hello(seed=0, n=1, **sampling):
    given = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 20} | sampling
    return lambda engine: engine.generate(user("Hello"), Sampling(seed=seed, n=n, **given))
