"""A stand-in for W&B's server with the endpoints that `wandb sync` needs: it stores history and summary of one run."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from typing import Any


class WandbServer:
    """Serve on a free local port until `close`."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []  # rows that were uploaded, at their place
        self.summary: dict[str, Any] = {}
        self.ids: list[str] = []  # of the runs that uploads were for
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                reply: dict[str, Any] = {}
                if self.path == "/graphql":
                    asked = json.loads(body)
                    reply = {"data": server.answer(asked["query"], asked.get("variables") or {})}
                elif "file_stream" in self.path:
                    server.store(json.loads(body).get("files") or {})
                data = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST

            def log_message(self, *_: Any) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def store(self, files: dict[str, Any]) -> None:
        if rows := files.get("wandb-history.jsonl"):
            self.history[rows["offset"] :] = map(json.loads, rows["content"])
        if rows := files.get("wandb-summary.json"):
            self.summary = json.loads(rows["content"][-1])

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "srlm", "entity": {"id": "e", "name": "team"}}
        if "RunResumeStatus" in query:
            if not self.history:
                return {"model": project | {"bucket": None}}
            lines = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(self.history)}
            tails = {"historyTail": json.dumps([json.dumps(self.history[-1])]), "eventsTail": "[]"}
            run = {"id": "b", "name": self.ids[-1], "displayName": "n", "config": "{}", "tags": [], "stopped": False}
            status = {"summaryMetrics": json.dumps(self.summary), "wandbConfig": json.dumps({"t": 1})}
            return {"model": project | {"bucket": run | lines | tails | status}}
        if "UpsertBucket" in query:
            self.ids.append(variables["name"])
            run = {"id": "b", "name": variables["name"], "displayName": "n", "description": "", "config": "{}"}
            return {"upsertBucket": {"bucket": run | {"sweepName": None, "project": project}, "inserted": True}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/files/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}
