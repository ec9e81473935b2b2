"""aiohttp: Realtime events and batches of JSON tokens over WebSockets, server-sent events, lines of JSON."""

import asyncio
import json

from aiohttp import WSMsgType, web

WORDS = [f"word{number} " for number in range(10)]
GAP_S = 0.02


async def realtime(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"type": "session.created", "event_id": "e0", "session": {"type": "realtime"}})
    task = None

    async def answer():
        status = "completed"
        try:
            await socket.send_json({"type": "response.created", "response": {"id": "r"}})
            for word in WORDS:
                await asyncio.sleep(GAP_S)
                await socket.send_json({"type": "response.output_text.delta", "response_id": "r", "item_id": "i" * 40, "delta": word})
        except asyncio.CancelledError:
            status = "cancelled"
        usage = {"output_tokens": 12, "output_token_details": {"text_tokens": 12}}
        await socket.send_json({"type": "response.done", "response": {"id": "r", "status": status, "usage": usage}})

    async for message in socket:
        if message.type is WSMsgType.TEXT:
            event = json.loads(message.data)
            if event["type"] == "response.create":
                task = asyncio.create_task(answer())
            elif event["type"] == "response.cancel" and task is not None and not task.done():
                task.cancel()
            else:
                await socket.send_json({"type": "error", "error": {"code": "response_cancel_not_active"}})
    if task is not None:
        task.cancel()
    return socket


async def batches(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        for start in range(0, len(WORDS), 4):
            await asyncio.sleep(GAP_S)
            await socket.send_json({"tokens": WORDS[start : start + 4]})
        await socket.send_json({"finished": message.data})
    return socket


async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    try:
        for word in WORDS:
            await asyncio.sleep(GAP_S)
            await response.write(f"event: token\ndata: {word}\n\n".encode())
        await response.write(b"event: end\ndata: {}\n\n")
    except ConnectionError:
        pass
    return response


async def lines(request):
    asked = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for word in WORDS:
        await asyncio.sleep(GAP_S)
        await response.write(json.dumps({"model": asked["model"], "message": {"content": word}, "done": False}).encode() + b"\n")
    await response.write(json.dumps({"message": {"content": ""}, "done": True}).encode() + b"\n")
    return response


async def main():
    app = web.Application()
    app.add_routes([web.get("/realtime", realtime), web.get("/batches", batches), web.get("/events", events), web.post("/lines", lines)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print("listening on", runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
