"""FastAPI on uvicorn: completions as sse-starlette sends them and as FastAPI does itself, JSON over a WebSocket."""

import asyncio
import json
import socket

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse

app = FastAPI()
WORDS = [f"word{number} " for number in range(10)]
GAP_S = 0.02
cancelled = []


def chunk(model, delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices, **more}
    return json.dumps(whole)


async def completion(body):
    try:
        yield chunk(body["model"], {"role": "assistant", "content": ""})
        # A long prompt is read for a while before the first word.
        await asyncio.sleep(0.2)
        for word in WORDS:
            yield chunk(body["model"], {"content": word})
            await asyncio.sleep(GAP_S)
        yield chunk(body["model"], {}, "stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "completion_tokens": 2 * len(WORDS), "total_tokens": 3 + 2 * len(WORDS)}
            yield chunk(body["model"], usage=usage)
        yield "[DONE]"
    except (asyncio.CancelledError, GeneratorExit):
        cancelled.append(1)
        raise


@app.post("/v1/chat/completions")
async def chat(request: Request):
    return EventSourceResponse(completion(await request.json()))


@app.post("/plain/v1/chat/completions")
async def plain(request: Request):
    body = await request.json()
    return StreamingResponse((f"data: {data}\n\n" async for data in completion(body)), media_type="text/event-stream")


@app.get("/cancelled")
async def how_many():
    return len(cancelled)


@app.websocket("/json")
async def converse(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            asked = await socket.receive_json()
            if asked["type"] != "generate":
                # An acknowledgement, or a cancel, that was under way when the answer ended.
                continue
            for number, word in enumerate(WORDS):
                await asyncio.sleep(GAP_S)
                await socket.send_json({"type": "token", "sequence": number, "delta": {"text": word}})
                answer = await socket.receive_json()
                if answer["type"] == "cancel":
                    break
                assert answer == {"type": "ack", "of": number}, answer
            await socket.send_json({"type": "done"})
    except WebSocketDisconnect:
        pass


listener = socket.create_server(("127.0.0.1", 0))
print("listening on", listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
