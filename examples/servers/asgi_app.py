"""No framework, for any ASGI server: uvicorn --workers 2 asgi_app:app. What a framework costs shows beside it."""

import json

from cnn import predict


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = json.dumps({"prediction": predict(json.loads(body)["words"])} if body else "ready").encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
